"""TensorFlow Serving: the folder that a server reads, and a client for the server.

Begin with `folder.export_serving` for the server and `remote_model.load_served` for the client.
"""
