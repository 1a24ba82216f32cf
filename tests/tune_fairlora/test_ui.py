"""The commands that look into MLflow: what they say when there is nothing to see, and what they fetch."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from analysis import results
from tests import mirror
from tune_fairlora import cli
from tune_fairlora.tracking.client import newest_search


@pytest.fixture
def two(tmp_path, store) -> str:
    """A store with the searches `first` and `second`."""
    for name in ("first", "second"):
        record, tracker = mirror.opened(tmp_path / name, store)
        mirror.trial(record, 0, 0.8)
        assert mirror.finish(record, tracker) == 0 and not tracker.errors
    return store


def line(capsys) -> str:
    text = capsys.readouterr().err.strip()
    assert "\n" not in text and text.startswith("error: ")
    return text


def test_the_newest_search_is_shown_unless_another_is_named(two):
    assert newest_search(two).name == "second" and newest_search(two, "first").name == "first"


@pytest.mark.parametrize("name", ["third", "fir' OR '1'='1"])
@pytest.mark.parametrize("command", ["ui", "fetch"])
def test_an_unknown_search_is_one_line(two, capsys, command, name):
    assert cli.main([command, "--tracking-uri", two, "--search", name]) == 2
    assert name in line(capsys)


@pytest.mark.parametrize("command", ["ui", "fetch"])
def test_a_store_that_is_not_there_is_one_line_and_is_not_made(tmp_path, capsys, command):
    assert cli.main([command, "--tracking-uri", f"sqlite:///{tmp_path / 'none.db'}"]) == 2
    assert "none.db does not exist" in line(capsys) and not list(tmp_path.iterdir())


def test_an_empty_store_says_how_to_start_a_search(store, capsys):
    assert cli.main(["ui", "--tracking-uri", store]) == 2
    assert "tune_fairlora.search" in line(capsys)


def test_a_port_that_is_taken_is_one_line(two, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["ui", "--tracking-uri", two, "--port", str(port)]) == 2
    assert f"--port {port}" in line(capsys)


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_port_that_is_none_is_one_line(capsys, port):
    assert cli.main(["ui", "--port", port]) == 2
    assert "1 … 65535" in line(capsys)


def test_a_server_that_is_no_mlflow_is_one_line(capsys):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert cli.main(["ui", "--tracking-uri", f"http://127.0.0.1:{server.server_port}"]) == 2
    server.shutdown()
    assert "not as an MLflow server" in line(capsys)


def test_the_tables_of_a_search_come_back_from_mlflow(two, tmp_path, capsys):
    out = tmp_path / "fetched"
    assert cli.main(["fetch", "--tracking-uri", two, "--search", "first", "--out", str(out)]) == 0
    ours, theirs = results.read(tmp_path / "first"), results.read(out)
    files = ["epochs.parquet", "events.jsonl", "search.json", "trials.parquet"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert cli.main(["report", "--search", str(out)]) == 0 and (out / "report.html").stat().st_size > 10_000
    assert theirs.name == "first" and theirs.epochs.equals(ours.epochs)
    known = ours.trials.drop(columns="mlflow_run_id")
    assert theirs.trials.drop(columns="mlflow_run_id").equals(known)
    assert cli.main(["fetch", "--tracking-uri", two, "--search", "first", "--out", str(out)]) == 2
    assert "is there" in line(capsys) and not [p for p in tmp_path.iterdir() if p.name.startswith(".fetch")]


def test_a_search_without_its_tables_in_mlflow_is_one_line(tmp_path, store, capsys):
    record, tracker = mirror.opened(tmp_path / "open", store)
    mirror.trial(record, 0, 0.8)
    tracker.close()  # as if its process had been killed before the end
    record.close()
    out = tmp_path / "fetched"
    assert cli.main(["fetch", "--tracking-uri", store, "--out", str(out)]) == 2
    assert "record/search.json" in line(capsys) and not out.exists()


def test_a_run_that_somebody_else_calls_a_search_is_passed_over(two):
    from mlflow import MlflowClient

    client = MlflowClient(two)
    client.create_run(client.create_experiment("theirs"), tags={"role": "search"}, run_name="theirs")
    assert newest_search(two).name == "second"


def test_a_folder_that_cannot_be_written_is_one_line(two, capsys):
    assert cli.main(["fetch", "--tracking-uri", two, "--out", "/proc/nothing/here"]) == 2
    assert "/proc/nothing/here cannot be written" in line(capsys)
