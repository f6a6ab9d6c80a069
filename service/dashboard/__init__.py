"""The page: NiceGUI mounted beside the API."""
