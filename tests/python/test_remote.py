"""Versions of datasets in an object store: what is pushed comes back byte for byte, whatever is killed, lost or refused on
the way."""

import hashlib
import itertools
import json
import random
import shutil
import signal
import ssl
import subprocess
import threading

import pytest
from conftest import PROGRAM, environment
from s3 import SECRET, S3
from test_experiments import until

PLACE = "s3://bucket/team/data"
PREFIX = "team/data/datasets/notes/"
CONTRACT = 'format = 1\n[schema]\nrequired = ["text"]\n[schema.properties.text]\ntype = "string"\n'
N_SMALL = 6


def start(home, s3, *args, **variables):
    own = {name: value for name, value in environment(home).items() if not name.startswith("AWS_")}
    return subprocess.Popen(
        [PROGRAM, "data", *args], env=own | s3.variables(**variables), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


def ended(process):
    """Status, standard output and standard error."""
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def verb(home, s3, *args, **variables):
    return ended(start(home, s3, *args, **variables))


def told(home, s3, *args, **variables):
    """The JSON document of a verb that does what it should."""
    status, out, error = verb(home, s3, *args, "--json", **variables)
    assert status == 0, error
    return json.loads(out)


def refused(home, s3, *args, status=3, **variables):
    """What a verb says that must fail."""
    ran, out, error = verb(home, s3, *args, **variables)
    assert (ran, out) == (status, ""), error
    assert SECRET not in error
    return error


def files(home):
    """Files of rows and of versions by their paths in the dataset."""
    dataset = home / "data" / "datasets" / "notes"
    found = [path for folder in ("objects", "versions") for path in (dataset / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(dataset)): path.read_bytes() for path in found}


def newest(home):
    """The files of the newest version of a home."""
    manifest = max(path for path in files(home) if path.endswith("manifest.json"))
    known = json.loads(files(home)[manifest])
    objects = {f"objects/{segment['hash']}.parquet" for segment in known["segments"]}
    folder = manifest.removesuffix("manifest.json")
    return {path: data for path, data in files(home).items() if path in objects or path.startswith(folder)}


def there(s3):
    """What lies in the store, by its path in the dataset, without the catalog."""
    stored = {key.removeprefix(PREFIX): data for key, data in s3.objects["bucket"].items()}
    return {path: data for path, data in stored.items() if path != "catalog.json"}


def ingest(home, s3, name, rows):
    (home / "contract.toml").write_text(CONTRACT)
    (home / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    told(home, s3, "ingest", "notes", home / name, "--contract", home / "contract.toml", "--append")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with versions: of small files, and of one that goes in several parts."""
    home, s3 = tmp_path_factory.mktemp("made"), S3()
    for i in range(N_SMALL):
        ingest(home, s3, f"{i}.jsonl", [f"row {i}"])
    noise = random.Random(7)
    ingest(home, s3, "large.jsonl", [noise.randbytes(1 << 19).hex() for _ in range(10)])
    s3.stop()
    return home


@pytest.fixture
def home(made, tmp_path):
    return shutil.copytree(made, tmp_path / "home")


@pytest.fixture
def other(tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


@pytest.fixture
def s3():
    server = S3()
    yield server
    server.stop()


def test_a_version_comes_back_byte_for_byte(home, other, s3, tmp_path):
    status, out, error = verb(home, s3, "push", "notes", PLACE)
    assert status == 0 and "pushing notes" in error, error
    assert f" pushed: {N_SMALL + 10} rows" in out, out
    assert there(s3) == newest(home)
    parts = s3.done("PUT", "parquet$")
    parts = [len(asked.body) for asked in parts if "partNumber" in asked.query]
    assert len(parts) > 1 and max(parts) <= 8 << 20

    assert told(home, s3, "push", "notes", PLACE)["n_files"] == 0
    moved = told(home, s3, "push", "notes", PLACE, "--all")
    assert (moved["n_files"], len(moved["versions"])) == (0, N_SMALL + 1)
    assert there(s3) == files(home)

    moved = told(other, s3, "pull", "notes", PLACE + "/")
    assert (moved["n_files"], moved["versions"][0]["was_there"]) == (N_SMALL + 1, False)
    assert files(other) == newest(home)
    rows = [verb(place, s3, "export", "notes") for place in (home, other)]
    assert rows[0] == rows[1] and rows[0][0] == 0
    told(other, s3, "pull", "notes", PLACE, "--all")
    assert files(other) == files(home)

    near, far = tmp_path / "near", tmp_path / "far"
    for folder, where in (near, []), (far, ["--remote", PLACE]):
        known = told(home, s3, "checkout", "notes", "-o", folder, *where)
        assert known["rows_published"] == N_SMALL + 10
    assert {path.name: path.read_bytes() for path in near.iterdir()} == {
        path.name: path.read_bytes() for path in far.iterdir()
    }
    empty = tmp_path / "empty"
    empty.mkdir()
    assert told(empty, s3, "log", "notes", "--remote", PLACE) == told(home, s3, "log", "notes")
    shown = [told(place, s3, "show", "notes", *where) for place, where in ((home, []), (empty, ["--remote", PLACE]))]
    assert shown[1].pop("folder").startswith(PLACE + "/datasets/notes/versions/")
    shown[0].pop("folder")
    assert shown[0] == shown[1]


def test_a_push_that_is_killed_goes_on_and_doubles_nothing(home, other, s3):
    lock, reached, release, begun = threading.Lock(), threading.Event(), threading.Event(), []

    def fault(asked):
        if asked.method == "PUT" and "/objects/" in asked.key:
            # Parts of the large file are none of the three that come through.
            is_part = "partNumber" in asked.query
            with lock:
                begun.extend([] if is_part else [asked.key])
                is_fourth = len(begun) > 3
            if is_fourth:
                reached.set()
            if is_fourth or is_part:
                release.wait(60)
                return "hang up"
        return None

    s3.fault = fault
    process = start(home, s3, "push", "notes", PLACE)
    assert reached.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    # What was sent before the kill is taken, also when nobody waits for the answer.
    until(lambda: len(s3.done("PUT", "/objects/")), lambda n: n == 3)
    for ask in (["log", "notes", "--remote", PLACE], ["pull", "notes", PLACE]):
        assert "no dataset notes" in refused(other, s3, *ask)

    # By now nothing of the killed one is on its way any more.
    s3.fault = lambda asked: None
    moved = told(home, s3, "push", "notes", PLACE)
    assert (moved["n_files"], moved["n_files_there"]) == (N_SMALL + 1 - 3, 3)
    whole = [asked.key for asked in s3.done("PUT", "") if "partNumber" not in asked.query]
    assert len(whole) == len(set(whole))
    assert there(s3) == newest(home)
    told(other, s3, "pull", "notes", PLACE)
    assert files(other) == newest(home)


def test_a_pull_that_is_killed_shows_nothing_and_goes_on(home, other, s3):
    told(home, s3, "push", "notes", PLACE)
    lock, reached, release, begun = threading.Lock(), threading.Event(), threading.Event(), []

    def fault(asked):
        if asked.method == "GET" and "/objects/" in asked.key:
            with lock:
                begun.append(asked.key)
                held = len(begun) > 3
            if held:
                reached.set()
                release.wait(60)
        return None

    s3.fault = fault
    process = start(other, s3, "pull", "notes", PLACE)
    assert reached.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    assert told(other, s3, "log", "notes") == []
    told(other, s3, "pull", "notes", PLACE)
    assert files(other) == newest(home)
    dataset = other / "data" / "datasets" / "notes"
    assert not [path for path in dataset.iterdir() if path.name.startswith("scratch")]


def test_a_checkout_that_is_killed_leaves_nothing_under_the_name(home, s3, tmp_path):
    told(home, s3, "push", "notes", PLACE)
    reached, release = threading.Event(), threading.Event()

    def fault(asked):
        if asked.is_("GET", ".parquet"):
            reached.set()
            release.wait(60)
        return None

    s3.fault = fault
    far, near = tmp_path / "out" / "far", tmp_path / "near"
    process = start(home, s3, "checkout", "notes", "--remote", PLACE, "-o", far)
    assert reached.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    # What it had is beside it, and says by its name what it is.
    left = [path.name for path in far.parent.iterdir()]
    assert len(left) == 1 and left[0].startswith(".lastmile-part-"), left
    for folder, where in (far, ["--remote", PLACE]), (near, []):
        told(home, s3, "checkout", "notes", "-o", folder, *where)
    assert {path.name: path.read_bytes() for path in near.iterdir()} == {
        path.name: path.read_bytes() for path in far.iterdir()
    }


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
def test_a_store_that_ignores_a_condition_gets_no_version(home, s3, header):
    s3.ignored = {header.lower()}
    assert f"ignores {header}, " in refused(home, s3, "push", "notes", PLACE)
    assert f"{PREFIX}catalog.json" not in s3.objects["bucket"]
    s3.ignored = set()
    told(home, s3, "push", "notes", PLACE)
    assert there(s3) == newest(home)


def test_a_catalog_of_a_newer_program_is_left_alone(home, other, s3):
    told(home, s3, "push", "notes", PLACE)
    key = f"{PREFIX}catalog.json"
    s3.objects["bucket"][key] = newer = json.dumps({"format": 2, "line": []}).encode()
    for place, ask in (home, ["push", "notes", PLACE]), (other, ["pull", "notes", PLACE]):
        error = refused(place, s3, *ask)
        assert "is of format 2" in error and "update lastmile" in error and "remove" not in error, error
    assert s3.objects["bucket"][key] == newer


def test_a_contract_that_was_chosen_stays_and_it_is_said(home, other, s3, tmp_path):
    told(home, s3, "push", "notes", PLACE)
    installed = other / "data" / "contracts" / "notes.toml"
    installed.parent.mkdir(parents=True)
    installed.write_text(CONTRACT + "minLength = 1\n")
    status, out, error = verb(other, s3, "pull", "notes", PLACE)
    assert status == 0 and "the contract of notes stays" in out, (out, error)
    assert installed.read_text() == CONTRACT + "minLength = 1\n"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert told(empty, s3, "pull", "notes", PLACE)["contract_differs"] is False
    assert (empty / "data" / "contracts" / "notes.toml").read_text() == CONTRACT


def test_an_object_that_was_changed_is_found_by_name(home, other, s3):
    told(home, s3, "push", "notes", PLACE)
    key = next(key for key in s3.objects["bucket"] if key.endswith(".parquet"))
    whole = s3.objects["bucket"][key]
    s3.objects["bucket"][key] = whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]
    error = refused(other, s3, "pull", "notes", PLACE)
    assert f"s3://bucket/{key} is damaged: its digest is" in error, error
    assert told(other, s3, "log", "notes") == []
    del s3.objects["bucket"][key]
    assert f"s3://bucket/{key} is missing" in refused(other, s3, "pull", "notes", PLACE)
    assert told(home, s3, "push", "notes", PLACE)["n_files"] == 1
    told(other, s3, "pull", "notes", PLACE)
    assert files(other) == newest(home)


def meet(s3):
    """Has the next two requests for the catalog wait for each other: both find the same."""
    barrier, seen = threading.Barrier(2), itertools.count()

    def fault(asked):
        if asked.is_("GET", "catalog.json") and next(seen) < 2:
            barrier.wait(60)
        return None

    s3.fault = fault


def test_two_who_push_the_same_at_once(home, other, s3, tmp_path):
    twin = shutil.copytree(home, tmp_path / "twin")
    meet(s3)
    for status, _, error in map(ended, [start(place, s3, "push", "notes", PLACE) for place in (home, twin)]):
        assert status == 0, error
    assert there(s3) == newest(home)
    assert len(told(home, s3, "log", "notes", "--remote", PLACE)) == 1
    told(other, s3, "pull", "notes", PLACE)
    assert files(other) == newest(home)


def test_two_who_push_different_versions_at_once(home, other, s3):
    """Of one line both are there; of two lines that were made apart only one."""
    ids = [version["version"] for version in told(home, s3, "log", "notes")]
    meet(s3)
    pushes = [start(home, s3, "push", "notes", PLACE, "--version", version) for version in (ids[0], ids[3])]
    for status, _, error in map(ended, pushes):
        assert status == 0, error
    listed = [version["version"] for version in told(home, s3, "log", "notes", "--remote", PLACE)]
    assert listed == [ids[0], ids[3]]

    ingest(other, s3, "elsewhere.jsonl", ["another line"])
    apart = "s3://bucket/apart"
    meet(s3)
    pushes = [
        start(home, s3, "push", "notes", apart, "--version", ids[-1]),
        start(other, s3, "push", "notes", apart),
    ]
    outcomes = sorted(map(ended, pushes))
    assert [status for status, _, _ in outcomes] == [0, 3], outcomes
    assert "made apart from each other" in outcomes[1][2]
    assert len(told(home, s3, "log", "notes", "--remote", apart)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_faults_on_the_way_cost_time_only(home, other, s3, seed):
    """The first try of every request fails, in one of four ways."""
    lock, seen = threading.Lock(), set()

    def fault(asked):
        request = (asked.method, asked.key, tuple(sorted(asked.query.items())))
        with lock:
            if request in seen:
                return None
            seen.add(request)
        drawn = hashlib.sha256(repr((seed, request)).encode()).digest()[0]
        return (503, "hang up", "lose", "cut")[drawn % 4]

    s3.fault = fault
    told(home, s3, "push", "notes", PLACE)
    assert there(s3) == newest(home)
    seen.clear()
    told(other, s3, "pull", "notes", PLACE)
    assert files(other) == newest(home)


def test_an_answer_that_is_cut_off_goes_on_where_it_was(home, other, s3):
    told(home, s3, "push", "notes", PLACE)
    cut = []

    def fault(asked):
        if asked.is_("GET", ".parquet") and asked.key not in cut:
            cut.append(asked.key)
            return "cut"
        return None

    s3.fault = fault
    told(other, s3, "pull", "notes", PLACE)
    assert files(other) == newest(home)
    ranges = [asked.headers.get("range") for asked in s3.done("GET", "parquet$")]
    assert len([ask for ask in ranges if ask and not ask.startswith("bytes=0-")]) == N_SMALL + 1


def test_a_large_file_is_gone_on_with_when_the_tries_of_its_first_request_are_over(home, other, s3):
    told(home, s3, "push", "notes", PLACE)
    sizes = {key: len(data) for key, data in s3.objects["bucket"].items() if key.endswith(".parquet")}
    large = max(sizes, key=sizes.get)
    cut = []

    def fault(asked):
        if asked.is_("GET", ".parquet") and asked.key == large and len(cut) < 3:
            cut.append(asked.headers.get("range"))
            return "cut"
        return None

    s3.fault = fault
    told(other, s3, "pull", "notes", PLACE, AWS_MAX_ATTEMPTS="2")
    assert files(other) == newest(home)
    begins = [int((ask or "bytes=0-").removeprefix("bytes=").partition("-")[0]) for ask in cut]
    assert begins == sorted(set(begins)), begins


def test_errors_say_which_key_which_status_and_what_to_do(home, s3):
    push = ("push", "notes", PLACE)
    error = refused(home, s3, *push, AWS_SECRET_ACCESS_KEY="wrong")
    assert f"s3://bucket/{PREFIX}catalog.json" in error and "status 403 SignatureDoesNotMatch" in error, error
    assert "check AWS_SECRET_ACCESS_KEY" in error
    assert "check AWS_ACCESS_KEY_ID" in refused(home, s3, *push, AWS_ACCESS_KEY_ID="AKIDOTHER")
    assert "set AWS_REGION" in refused(home, s3, *push, AWS_REGION="us-west-2")
    error = refused(home, s3, "push", "notes", "s3://nowhere/x")
    assert "s3://nowhere/x/datasets/notes/catalog.json" in error and "NoSuchBucket" in error, error
    assert "AWS_ALLOW_HTTP=true" in refused(home, s3, *push, status=2, AWS_ALLOW_HTTP="false")
    assert "AWS_MAX_ATTEMPTS" in refused(home, s3, *push, status=2, AWS_MAX_ATTEMPTS="0")
    assert "s3://BUCKET/PREFIX" in refused(home, s3, "push", "notes", "bucket/x", status=2)
    with_password = s3.url.replace("://", f"://user:{SECRET}@")
    assert "@127.0.0.1" in refused(home, s3, *push, status=2, AWS_ENDPOINT_URL=with_password)
    assert "there is no dataset nothing" in refused(home, s3, "push", "nothing", PLACE)
    assert not s3.objects["bucket"]

    s3.fault = lambda asked: 503 if asked.is_("PUT", ".parquet") else None
    error = refused(home, s3, *push, AWS_MAX_ATTEMPTS="2")
    assert ".parquet: status 503 SlowDown" in error and "try again later" in error, error
    assert not there(s3)
    s3.fault = lambda asked: None
    told(home, s3, *push)


def test_a_store_that_is_away(home):
    away = S3()
    away.stop()
    error = refused(home, away, "push", "notes", PLACE, AWS_MAX_ATTEMPTS="1")
    assert "cannot connect" in error and "check AWS_ENDPOINT_URL" in error, error


def test_over_tls_only_to_whom_it_trusts(home, other, tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    s3 = S3(tls=context)
    trusting = {"AWS_ALLOW_HTTP": "false", "AWS_CA_BUNDLE": str(certificate)}
    told(home, s3, "push", "notes", PLACE, **trusting)
    told(other, s3, "pull", "notes", PLACE, **trusting)
    assert files(other) == newest(home)
    error = refused(other, s3, "log", "notes", "--remote", PLACE, AWS_ALLOW_HTTP="false")
    assert "certificate" in error and "AWS_CA_BUNDLE" in error, error
    missing = str(tmp_path / "none.pem")
    assert "AWS_CA_BUNDLE" in refused(other, s3, "log", "notes", "--remote", PLACE, status=2, AWS_CA_BUNDLE=missing)
    s3.stop()
