"""Who may call: API keys, local mode, and the gate in front of every route of ours."""
