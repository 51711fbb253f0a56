"""A server whose store lies on a real PostgreSQL server: what it keeps, what a kill leaves, and what happens when that
server goes away."""

import json
import signal
import sqlite3
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import postgres
import pytest
from conftest import PROGRAM, Server, environment
from ports import free_port
from test_experiments import until

TEXT = "Tell me of the sea, the sky and the stones."
ANN = "ann@example.org"

pytestmark = pytest.mark.skipif(
    postgres.programs() is None, reason="POSTGRESQL IS NOT INSTALLED (./test installs it from the system's packages)"
)


@pytest.fixture(scope="module")
def folder():
    # A socket's path may have about 100 characters, and others must be able to enter the folders above it.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def database(folder):
    server = postgres.Postgres(folder / "s")
    yield server
    server.stop("immediate")


@pytest.fixture
def url(database, request):
    """A schema of the test's own."""
    schema = request.node.name.split("[")[0]
    database.rows(f"CREATE SCHEMA {schema}")
    return database.url() + "?options=" + quote(f"-c search_path={schema}", safe="")


def verb(home, url, *args):
    variables = environment(home) | {"LASTMILE_STORE": url}
    return subprocess.run([PROGRAM, *args], env=variables, capture_output=True, text=True, timeout=120)


def told(home, url, *args):
    ended = verb(home, url, *args, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def serve(home, url, *args):
    return Server(home, "--model", "placeholder", *args, variables={"LASTMILE_STORE": url})


def ask(server, **fields):
    body = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 12} | fields
    answer = server.post("/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    return answer.json["id"].removeprefix("chatcmpl-")


def stored(home, url, request_id):
    until(lambda: verb(home, url, "why", request_id), lambda ran: ran.returncode == 0, 10)


def hides(text):
    assert postgres.PASSWORD not in text and quote(postgres.PASSWORD, safe="") not in text, text


def test_a_server_lives_on_it_and_a_kill_loses_nothing_that_was_stored(tmp_path, database, url):
    server = serve(tmp_path, url)
    asked = [ask(server, user=ANN if i % 2 else "ben", temperature=1, n=2) for i in range(6)]
    said = server.post("/v1/feedback", {"request_id": asked[0], "rating": False, "correction": "no"})
    assert said.status == 201, said.body
    stored(tmp_path, url, asked[-1])
    assert not (tmp_path / "store" / "lastmile.db").exists(), "nothing of it is in a file"
    hides(server.get("/metrics").body + server.get("/ops/v1/now").body)
    server.stop(signal.SIGKILL)
    again = serve(tmp_path, url)
    try:
        page = again.get(f"/v1/requests/{asked[1]}/page")
        assert page.status == 200 and TEXT in page.body
        assert again.get(f"/v1/requests/{asked[1]}/timeline").status == 200
        replayed = again.post(f"/ops/v1/requests/{asked[1]}/replay", {})
        assert replayed.status == 200 and replayed.json["verdict"] == "identical", replayed.body
        found = again.get("/v1/requests").json["data"]
        assert {one["id"].removeprefix("chatcmpl-") for one in found} == set(asked)
        # Verbs read it beside the server.
        states = [run["state"] for run in told(tmp_path, url, "doctor")["runs"]]
        assert states == ["running", "crashed"], states
        assert told(tmp_path, url, "cost")["total"]["requests"] == 6
        assert verb(tmp_path, url, "replay", asked[2]).returncode == 0
        assert told(tmp_path, url, "failures", "top"), "the loop concluded something of the feedback"
        erased = told(tmp_path, url, "store", "erase", "--subject", ANN)
        assert erased["requests"] == 3 and erased["rows"] == 6
        assert again.get(f"/v1/requests/{asked[1]}/page").status == 404
        stats = told(tmp_path, url, "store", "stats")
        assert stats["rows"]["requests"] == 3 and stats["rows"]["attempts"] == 6
        hides(json.dumps(stats))
        backup = verb(tmp_path, url, "store", "backup", str(tmp_path / "copy.db"))
        assert backup.returncode != 0 and "pg_dump" in backup.stderr
        hides(backup.stderr)
        upgraded = told(tmp_path, url, "store", "upgrade")
        assert upgraded["before"] == upgraded["now"] == stats["schema"]
    finally:
        assert again.stop() == 0
    hides("".join(server.lines + again.lines) + database.log.read_text())


def test_all_rows_of_a_file_move_there_and_serve_on(tmp_path, url):
    file = str(tmp_path / "store" / "lastmile.db")
    server = Server(tmp_path, "--model", "placeholder")
    asked = [ask(server, user=ANN) for _ in range(20)]
    assert server.post("/v1/feedback", {"request_id": asked[3], "rating": True}).status == 201
    assert server.stop() == 0
    before = told(tmp_path, file, "store", "stats")["rows"]
    moved = told(tmp_path, file, "store", "migrate", "--to", url)
    assert {table["table"]: table["copied"] for table in moved}["request"] == 20
    assert all(table["rows"] == table["copied"] for table in moved), moved
    assert told(tmp_path, url, "store", "stats")["rows"] == before
    again = told(tmp_path, file, "store", "migrate", "--to", url)
    assert all(table["copied"] == 0 for table in again), again
    same = verb(tmp_path, url, "store", "migrate", "--to", url)
    assert same.returncode != 0 and "another store" in same.stderr
    hides(same.stderr)
    server = serve(tmp_path, url)
    try:
        replayed = server.post(f"/ops/v1/requests/{asked[3]}/replay", {})
        assert replayed.json["verdict"] == "identical", replayed.body
        stored(tmp_path, url, ask(server))
    finally:
        assert server.stop() == 0
    assert told(tmp_path, url, "store", "stats")["rows"]["requests"] == 21
    back = str(tmp_path / "back.db")
    told(tmp_path, url, "store", "migrate", "--to", back)
    assert told(tmp_path, back, "store", "stats")["rows"] == told(tmp_path, url, "store", "stats")["rows"]
    assert told(tmp_path, url, "store", "erase", "--subject", ANN)["requests"] == 20
    # What was erased after a copy is not kept in it unseen.
    refused = verb(tmp_path, url, "store", "migrate", "--to", back)
    assert refused.returncode != 0 and "has 20 requests that the old one does not have" in refused.stderr, refused.stderr
    assert "--missing erase" in refused.stderr
    gone = told(tmp_path, url, "store", "migrate", "--to", back, "--missing", "erase")
    assert {table["table"]: table["erased"] for table in gone}["request"] == 20
    assert told(tmp_path, back, "store", "stats")["rows"] == told(tmp_path, url, "store", "stats")["rows"]


def test_conclusions_live_there_too_and_a_kill_takes_none(tmp_path, database, url):
    """From failures to a fix, over two servers with homes of their own."""
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        home.mkdir()
    server, other = (serve(home, url) for home in homes)
    try:
        for i in range(8):
            at = (server, other)[i % 2]
            asked = [{"role": "user", "content": f"When does the museum of trams open on day {i} of the year?"}]
            said = at.post("/v1/feedback", {"request_id": ask(at, messages=asked), "rating": False})
            assert said.status == 201, said.body

        def lease(at, reviewer):
            looked = lambda: at.post("/ops/v1/review/lease", {"reviewer": reviewer, "n": 4})
            page = until(looked, lambda page: page.status == 200 and len(page.json["data"]) == 4, 60)
            return [item["answer"] for item in page.json["data"]]

        with ThreadPoolExecutor(2) as pool:
            anns, bens = pool.map(lease, [server, other], ["ann", "ben"])
        assert len({*anns, *bens}) == 8, "one answer is leased to both"
        verdict = {"answer": anns[0], "verdict": "correct", "text": "At ten.", "reviewer": "ann"}

        def post(at, what, body, is_so):
            """A page waits for the loop for 2 s, and is old or refused where that takes longer."""
            until(lambda: at.post(f"/ops/v1/review/{what}", body), is_so, 60)

        post(server, "verdict", verdict, lambda judged: judged.status == 200)
        server.stop(signal.SIGKILL)
        late = verdict | {"verdict": "reject", "text": None, "reviewer": "ben"}
        post(other, "verdict", late, lambda refused: refused.status == 409 and "ann" in refused.body)
        server = serve(homes[0], url)

        def are_anns(page):
            counts = {name: page.json.get(name) for name in ("n_failures", "n_unreviewed")}
            leased = {item["answer"] for item in page.json.get("data", [])}
            return leased == set(anns[1:]) and counts == {"n_failures": 8, "n_unreviewed": 7}

        anns_lease = {"reviewer": "ann", "n": 4}
        post(server, "lease", anns_lease, are_anns)
        # What one writes at a terminal, the other one's pages show.
        rows = told(homes[1], url, "failures", "list")
        row = next(row for row in rows if row["verdict"])
        assert (row["request_id"], row["correction"]) == (anns[0], "At ten.")
        fix = told(homes[0], url, "fix", "add", row["cluster"], "--note", "opening hours in the prompt")
        assert json.loads(verb(homes[0], url, "fix", "verify", fix["id"], "--json").stdout)["verdict"] == "undecided"
        fixes = lambda: [(one["id"], len(one["history"])) for one in other.get("/ops/v1/fixes").json.get("data", [])]
        until(fixes, lambda seen: seen == [(fix["id"], 1)], 60)
        erased = told(homes[1], url, "store", "erase", "--request", bens[0])
        assert erased["requests"] == 1 and erased["conclusions"] >= 1, erased
        post(server, "lease", anns_lease, lambda page: page.json.get("n_failures") == 7)
        assert not any((home / "store" / "feedback.db").exists() for home in homes)
    finally:
        assert [server.stop(), other.stop()] == [0, 0]
    # They move with the store: into files, and to another server's tables.
    back, schema = str(tmp_path / "back.db"), "conclusions_again"
    database.rows(f"CREATE SCHEMA {schema}")
    again = database.url() + "?options=" + quote(f"-c search_path={schema}", safe="")
    for place, to in [(url, back), (back, again)]:
        moved = {table["table"]: table for table in told(homes[0], place, "store", "migrate", "--to", to)}
        assert moved["failure"]["rows"] == moved["failure"]["copied"] == 7, moved
        assert moved["request"]["copied"] == 7 and moved["fix"]["copied"] == 1
        assert [one["id"] for one in told(homes[0], to, "fix", "list")] == [fix["id"]]
    mine = told(homes[1], again, "failures", "list")
    assert [row["correction"] for row in mine if row["verdict"]] == ["At ten."]
    tagged = verb(homes[1], again, "review", "tag", anns[0], "trams", "--as", "ann")
    assert tagged.returncode == 0, tagged
    refused = verb(homes[0], back, "store", "migrate", "--to", again)
    assert refused.returncode != 0 and "a tag on" in refused.stderr and "--missing erase" in refused.stderr, refused
    hides(refused.stderr + database.log.read_text())


def test_conclusions_that_stayed_in_a_home_are_told_carried_and_erased(tmp_path, url):
    """A home whose store went to the server when its conclusions could not."""
    home, kept = tmp_path / "home", tmp_path / "kept.db"
    home.mkdir()
    file, book = home / "store" / "lastmile.db", home / "store" / "feedback.db"
    server = Server(home, "--model", "placeholder")
    asked = []
    for i in range(4):
        said = [{"role": "user", "content": f"When does the museum of trams open on day {i} of the year?"}]
        asked.append(ask(server, messages=said, user=ANN if i < 2 else "ben"))
        assert server.post("/v1/feedback", {"request_id": asked[-1], "rating": False}).status == 201
    assert server.stop() == 0
    for one in asked:
        judged = verb(home, "", "review", "correct", one, f"At ten, {one}.", "--as", "ann")
        assert judged.returncode == 0, judged
    cluster = told(home, "", "failures", "list")[0]["cluster"]
    fix = told(home, "", "fix", "add", cluster, "--note", "opening hours in the prompt")
    book.rename(kept)
    told(home, str(file), "store", "migrate", "--to", url)
    # Somebody was erased there since, and the old rows are gone or of another schema.
    assert told(home, url, "store", "erase", "--subject", ANN)["requests"] == 2
    kept.rename(book)
    file.unlink()

    listed = verb(home, url, "failures", "list", "--json")
    assert "warning" in listed.stderr and "--conclusions" in listed.stderr, listed
    assert {row["verdict"] for row in json.loads(listed.stdout)} == {None}
    hides(listed.stderr)
    server = serve(home, url)
    assert server.stop() == 0
    assert any("--conclusions" in line for line in server.lines), server.lines
    same = verb(home, url, "store", "migrate", "--to", url, "--conclusions")
    assert same.returncode == 2 and "LASTMILE_STORE=" in same.stderr, same
    both = verb(home, "", "store", "migrate", "--to", url, "--conclusions", "--missing", "keep")
    assert both.returncode == 2, both

    moved = {table["table"]: table for table in told(home, "", "store", "migrate", "--to", url, "--conclusions")}
    assert (moved["failure"]["rows"], moved["failure"]["copied"], moved["fix"]["copied"]) == (4, 2, 1), moved
    assert "request" not in moved
    assert told(home, url, "store", "stats")["rows"]["requests"] == 2
    rows = verb(home, url, "failures", "list", "--json")
    assert "warning" not in rows.stderr, rows
    corrections = {row["request_id"]: row["correction"] for row in json.loads(rows.stdout)}
    assert corrections == {one: f"At ten, {one}." for one in asked[2:]}
    assert [one["id"] for one in told(home, url, "fix", "list")] == [fix["id"]]

    # Who is erased now is erased from the file, too.
    assert told(home, url, "store", "erase", "--request", asked[2])["conclusions"] >= 2
    with sqlite3.connect(book) as old:
        left = {row[0] for row in old.execute("SELECT request_id FROM failure")}
    assert left == {asked[0], asked[1], asked[3]}
    assert len(told(home, url, "failures", "list")) == 1


def test_tokens_never_wait_for_a_database_that_goes_away(tmp_path, database, url):
    server = serve(tmp_path, url)
    counted = lambda name: server.metrics()[name][0][1]
    try:
        first = ask(server)
        stored(tmp_path, url, first)
        # What is not waited for is on its disk after this.
        database.rows("CHECKPOINT")
        database.stop("immediate")
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: ask(server), range(40)))
        assert time.monotonic() - began < 20
        lost = lambda: counted("lastmile_store_write_errors_total") + counted("lastmile_store_dropped_total")
        until(lost, lambda n: n >= 40, 30)
        refused = server.post("/v1/feedback", {"request_id": first, "rating": False})
        assert refused.status == 500 and "could not be stored" in refused.body, refused.body
        assert server.get("/health/ready").status == 200
        database.start()
        stored(tmp_path, url, ask(server))
        said = server.post("/v1/feedback", {"request_id": first, "rating": False})
        assert said.status == 201, said.body
    finally:
        assert server.stop() == 0
    hides("".join(server.lines))


@pytest.mark.parametrize("password, name, expect", [
    ("wr0ng", "postgres", "password authentication failed"),
    (postgres.PASSWORD, "none", 'database "none" does not exist'),
])
def test_who_is_not_let_in_does_not_start_and_says_why(tmp_path, database, password, name, expect):
    place = database.url(password, name)
    ended = verb(tmp_path, place, "serve", "--port", "0", "--model", "placeholder")
    assert ended.returncode != 0 and expect in ended.stderr, ended.stderr
    hides(ended.stderr)
    assert "wr0ng" not in ended.stderr


@pytest.mark.parametrize("place, expect", [
    ("postgres://me:wr0ng@127.0.0.1:1/db", "cannot be reached"),
    ("postgres://me:wr0ng@no-such-host.invalid/db?sslmode=disable", "cannot be reached"),
    ("postgres://me:wr0ng@no-such-host.invalid/db", "does not say sslmode"),
    ("postgres://me:wr0ng@host:0x/db", "the URL must be"),
])
def test_a_server_that_is_not_there_is_named_at_the_start(tmp_path, place, expect):
    ended = verb(tmp_path, place, "serve", "--port", "0", "--model", "placeholder")
    assert ended.returncode != 0 and expect in ended.stderr, ended.stderr
    assert "wr0ng" not in ended.stderr


def test_a_certificate_is_verified_or_the_server_does_not_start(tmp_path, folder):
    encrypted = postgres.Postgres(folder / "tls")
    certificate = encrypted.folder / "server.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", encrypted.folder / "server.key", "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"],
        check=True, capture_output=True,
    )
    encrypted.own("server.key", "server.crt")
    hba = encrypted.data / "pg_hba.conf"
    hba.write_text("local all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
    encrypted.stop()
    port = free_port()
    encrypted.options = (f"-c listen_addresses=127.0.0.1 -c port={port} -c ssl=on"
                         f" -c ssl_cert_file={certificate} -c ssl_key_file={encrypted.folder / 'server.key'}")
    encrypted.start()
    try:
        secret = quote(postgres.PASSWORD, safe="")
        url = f"postgres://lastmile:{secret}@localhost:{port}/postgres"
        refused = verb(tmp_path, url + "?sslmode=require", "serve", "--port", "0", "--model", "placeholder")
        assert refused.returncode != 0 and "certificate" in refused.stderr, refused.stderr
        plain = verb(tmp_path, url, "serve", "--port", "0", "--model", "placeholder")
        assert plain.returncode != 0 and "pg_hba.conf" in plain.stderr, plain.stderr
        variables = {"LASTMILE_STORE": url + "?sslmode=require", "PGSSLROOTCERT": str(certificate)}
        server = Server(tmp_path, "--model", "placeholder", variables=variables)
        ask(server)
        assert server.stop() == 0
        said = subprocess.run(
            [postgres.programs() / "psql", "-h", encrypted.folder, "-p", str(port), "-U", "lastmile", "-d", "postgres",
             "-Atc", "SELECT count(*) FROM request"],
            env={"PGPASSWORD": postgres.PASSWORD}, capture_output=True, text=True, timeout=60)
        assert said.stdout == "1\n", said
        hides(refused.stderr + plain.stderr + "".join(server.lines))
    finally:
        encrypted.stop("immediate")
