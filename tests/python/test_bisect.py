"""`lastmile bisect`: since which release an answer is another one."""

import json

from conftest import Server, run

# The seed decides the answers; how long a step takes does not, and is another release all the same.
RELEASES = [
    "placeholder:seed=1",
    "placeholder:seed=1,delay_us=1",
    "placeholder:seed=1,delay_us=2",
    "placeholder:seed=2,delay_us=2",
    "placeholder:seed=2,delay_us=3",
    "placeholder:seed=2,delay_us=4",
]
BODY = {"model": "placeholder", "prompt": "what was it", "max_tokens": 24, "ignore_eos": True}


def served(home):
    """An id of each release's answer, and the releases' digests, oldest first."""
    ids, hashes = [], []
    for model in RELEASES:
        server = Server(home, "--model", model)
        answer = server.post("/v1/completions", BODY)
        ids.append(answer.json["id"])
        hashes.append(server.get("/version").json["release"])
        assert server.stop() == 0
    assert len(set(hashes)) == len(RELEASES), hashes
    return ids, hashes


def bisect(home, *args):
    done = run(home, "bisect", "--json", *args)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_the_first_release_that_answers_otherwise_is_found_from_both_sides(tmp_path):
    ids, hashes = served(tmp_path)
    # From a good answer forward, and from a bad one back.
    for identity in (ids[0], ids[-1]):
        status, found, said = bisect(tmp_path, identity)
        assert status == 0, said
        assert (found["before"], found["first"], found["or"]) == (hashes[2], hashes[3], []), found
        assert [fact["name"] for fact in found["changed"]] == ["weights_digest"], found
        assert len(found["tried"]) <= 4 < found["n_releases"]
    text = run(tmp_path, "bisect", ids[0]).stdout
    assert text.startswith(f"first    {hashes[3]}, the one before it {hashes[2]}\n"), text
    status, _, said = bisect(tmp_path, ids[0], "--to", hashes[2])
    assert status == 3 and "both answer identical" in said
    status, _, said = bisect(tmp_path, ids[0], "--from", hashes[4], "--to", hashes[1])
    assert status == 2 and hashes[4] in said
    status, _, said = bisect(tmp_path, ids[0], "--to", "zz")
    assert status == 2 and "--to is zz" in said
