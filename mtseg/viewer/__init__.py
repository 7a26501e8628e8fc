"""The page `mtseg-view`: a person drops a scan into a browser and sees its labels.

It shows the test scans of finished experiments, too.

Begin with `web.server.Server`, which answers the browser. `uploads` receives files, `scan_list`
keeps the scans and computes one after the other, `worker` is the process that computes, and
`private_folder` is where everything of a page is kept until it ends. `page/` has what the browser
loads; `page/niivue/` is a copy of the viewer NiiVue. Only `worker` imports TensorFlow.
"""
