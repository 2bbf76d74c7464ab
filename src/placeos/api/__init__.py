"""REST and the control websocket."""
