"""TensorFlow Serving: the folder it serves from, and a client for it.

Begin with `folder.export_serving` for the server and `remote_model.load_served` for the client.
"""
