"""How long Chromium takes to draw a study's report: ``python -m benchmarks.report results/heart/report.html``."""

import shutil
import sys
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.wait import WebDriverWait

DRAWN = "return document.documentElement.dataset.drawn && performance.now()"


def main() -> None:
    page = Path(sys.argv[1]).resolve()
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")
    for _ in range(3):
        driver = Chrome(options=options, service=ChromeService(str(shutil.which("chromedriver"))))
        try:
            driver.get(page.as_uri())
            milliseconds = WebDriverWait(driver, 120, poll_frequency=0.05).until(lambda d: d.execute_script(DRAWN))
        finally:
            driver.quit()
        print(f"{page.stat().st_size / 1e6:.2f} MB, last chart after {milliseconds / 1000:.2f} s")


if __name__ == "__main__":
    main()
