"""The control websocket: live values, calls and debug output for apps in the browser."""
