"""A durable queue in SQL: work that outlives the request and the process that asked for it."""
