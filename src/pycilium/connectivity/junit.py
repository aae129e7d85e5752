"""A run as JUnit's XML, which CI systems read: a case for each test, and what is wrong in its failure. Pure."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from pycilium.connectivity.results import Report, TestResult

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report, started: str) -> bytes:
    """The document; `started` is the time as ISO 8601."""
    counts = {
        "tests": str(len(report.results)),
        "failures": str(len(report.of("failed"))),
        "errors": "0",
        "skipped": str(len(report.of("skipped"))),
        "time": f"{report.took_s:.3f}",
    }
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(
        suites, "testsuite", {"name": "connectivity test", "hostname": report.where, "timestamp": started, **counts}
    )
    for result in report.results:
        _add_case(suite, result)
    ET.indent(suites)
    document: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _add_case(suite: ET.Element, result: TestResult) -> None:
    case = ET.SubElement(
        suite, "testcase", {"name": result.name, "classname": "connectivity test", "time": f"{result.took_s:.3f}"}
    )
    if result.state == "failed":
        lines = result.lines()
        failure = ET.SubElement(case, "failure", {"type": "failure", "message": _clean(_headline(result))})
        failure.text = _clean("\n".join(lines))
    elif result.state == "skipped":
        ET.SubElement(case, "skipped", {"message": _clean(result.why_skipped)})


def _headline(result: TestResult) -> str:
    if result.findings:
        return result.findings[0]
    failed = result.failures
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{failed[0].action}: {'; '.join(failed[0].wrong)}{more}"


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return _NOT_IN_XML.sub("?", text)
