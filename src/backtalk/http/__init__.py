"""What speaks HTTP and knows no room: error rendering, event streams, paging, the envelope of a request, outbound calls."""
