"""The page of a run: one HTML file."""

from conjoin.report.page.document import COMPARED, PAGE, page_of, write_page

__all__ = ["COMPARED", "PAGE", "page_of", "write_page"]
