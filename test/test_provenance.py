import json

from rssm_ros import __version__, provenance


def test_a_machine_is_told_in_plain_data() -> None:
    found = provenance.machine()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"] and found["cores"] >= 1 and found["cpu"] in provenance.hardware()


def test_versions_of_what_is_there_and_what_is_not() -> None:
    found = provenance.versions("numpy", "no-such-package")
    assert found["rssm_ros"] == __version__ and found["no-such-package"] == ""
    assert found["numpy"][0].isdigit() and found["python"][0].isdigit()
