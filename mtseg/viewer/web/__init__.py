"""The page's web server. Begin with `server.Server`; `handler` answers a request.

It knows `mtseg.viewer.scan_list` and no network.
"""
