"""A browser without a window, if the system has one, and what tests ask of a page in it."""

import json
import shutil

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


def missing():
    """Why there is no browser to test with; "" if there is one."""
    try:
        import selenium  # noqa: F401
    except ModuleNotFoundError:
        return "selenium is not installed"
    if not any(map(shutil.which, CHROMIUMS)):
        return "there is no Chromium: apt-get install chromium chromium-driver"
    return "" if shutil.which("chromedriver") else "there is no chromedriver: apt-get install chromium-driver"


def start(width=1400, height=1100):
    """A driver of selenium's; what pages log and ask for is kept."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, CHROMIUMS)))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


class Opened:
    """A page in the browser."""

    def __init__(self, driver, path):
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver = driver
        for log in ("performance", "browser"):
            driver.get_log(log)  # what an earlier page has left
        driver.get(path.as_uri())
        WebDriverWait(driver, 30).until(
            lambda d: d.execute_script("return document.documentElement.dataset.ready") == "yes"
        )
        self.errors, self.asked_for = self.logged()

    def logged(self):
        """Errors and warnings that the browser has told since it was last asked, and what pages have asked for."""
        found = []
        errors = [e["message"] for e in self.driver.get_log("browser") if e["level"] != "INFO"]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return errors, [url for url in found if not url.startswith(("data:", "blob:"))]

    def run(self, code, *arguments):
        """Run script and return what it returns; `model(name)` is Bokeh's model of that name."""
        models = "const model = (name) => Bokeh.documents[0].get_model_by_name(name);\n"
        found = self.driver.execute_script(models + code, *arguments)
        # Bokeh runs callbacks a little later.
        self.driver.execute_async_script("setTimeout(arguments[0], 60)")
        return found

    def text(self, selector):
        return self.driver.find_element("css selector", selector).text

    def press(self, label):
        """Click the button of this label, within whatever it lies."""
        self.run(PRESS, label)

    def point(self, place):
        """Move the pointer onto a point of the map; the text and the pictures of what then stands beside it."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.support.ui import WebDriverWait

        x, y = self.where(place)
        ActionChains(self.driver).move_by_offset(0, 0).perform()
        actions = ActionChains(self.driver)
        actions.w3c_actions.pointer_action.move_to_location(int(x) + 30, int(y) + 30)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        actions.perform()
        return WebDriverWait(self.driver, 10).until(lambda _: self.run(TIP))

    def where(self, place):
        """In the window, in pixels, the point of one row of the page on the map, which is brought into view."""
        return self.run(WHERE, place)


WHERE = """
const plot = model("map");
const view = Bokeh.index.find_one ? Bokeh.index.find_one(plot) : Bokeh.index[plot.id];
const canvas = view.canvas_view ? view.canvas_view.el : view.el;
canvas.scrollIntoView({block: "nearest"});
const box = canvas.getBoundingClientRect();
const source = plot.renderers[0].data_source;
const frame = view.frame;
const x = frame.x_scale.compute(source.data.x[arguments[0]]);
const y = frame.y_scale.compute(source.data.y[arguments[0]]);
return [box.left + x, box.top + y];
"""

TIP = """
const found = [];
const walk = (node) => {
  if (node.classList && node.classList.contains("bk-Tooltip") && getComputedStyle(node).display !== "none")
    found.push(node);
  for (const child of node.children ?? []) walk(child);
  if (node.shadowRoot) walk(node.shadowRoot);
};
walk(document.body);
const texts = [];
for (const tip of found) {
  const inside = tip.shadowRoot ?? tip;
  const images = [...inside.querySelectorAll("img")].map((one) => one.src);
  const text = [...inside.querySelectorAll("div")].map((one) => one.textContent).join("\\n");
  if (text.includes("row")) texts.push({text, images});
}
return texts.length ? texts[0] : null;
"""

PRESS = """
const walk = (node) => {
  if (node.tagName === "BUTTON" && node.textContent.trim() === arguments[0]) node.click();
  for (const child of node.children ?? []) walk(child);
  if (node.shadowRoot) walk(node.shadowRoot);
};
walk(document.body);
"""
