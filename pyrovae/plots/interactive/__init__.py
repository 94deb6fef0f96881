"""The page `report.html`: the report's rows and latents to point at, by Bokeh, in one file that asks for nothing else.

Python says what there is to see, Bokeh draws it and has the widgets, `page.js` joins the two in the browser. Values of
rows reach the page as data, never as HTML.
"""
