"""Plants faults of twelve kinds in synthetic rows, and says how many of them an ingest found.

    planted_faults.py generate FOLDER --megabytes 200     rows.jsonl, contract.toml, planted.json
    planted_faults.py check FOLDER QUARANTINE.json        of `lastmile quarantine list NAME --limit N --json`
    planted_faults.py baseline FOLDER                     pyarrow's reader, and JSON Schema in Python

`generate` and `check` need nothing but Python; `baseline` needs pyarrow, jsonschema and fastjsonschema.
"""

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path

CONTRACT = """format = 1
unique = [["id"]]

[text]
columns = ["text"]
mojibake = true
control_chars = true
empty = true
secrets = true
personal_data = ["credit_card", "iban"]

[near_duplicates]
columns = ["text"]
similarity = 0.85

[[depends]]
on = ["zip"]
column = "city"

[columns.score]
min = 0.0
max = 1.0

[columns.channel]
one_of = ["mail", "chat", "phone", "web"]

[columns.text]
min_chars = 1
max_chars = 4000

[schema]
type = "object"
required = ["id", "channel", "priority", "score", "zip", "city", "text"]

[schema.properties]
id = { type = "string" }
channel = { type = "string" }
priority = { type = "integer" }
score = { type = "number" }
zip = { type = "string" }
city = { type = "string" }
text = { type = "string" }
"""

CHANNELS = ["mail", "chat", "phone", "web"]
SHARE = 0.03
N_ZIPS = 2_000


class Soup:
    """Rows whose texts have nothing in common but frequent words."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "il", "ot")]
        word = lambda: "".join(self.random.choices(syllables, k=self.random.randint(2, 4)))
        self.words = [word() for _ in range(20_000)] + ["the", "of", "and", "is", "not"] * 200
        self.recent = []

    def row(self, number):
        r = self.random
        zip_code = r.randrange(N_ZIPS)
        return {
            "id": f"t-{number:09}",
            "channel": r.choice(CHANNELS),
            "priority": r.randint(1, 5),
            "score": round(r.random(), 4),
            "zip": f"{zip_code:05}",
            "city": f"City {zip_code % 977}",
            "text": " ".join(r.choices(self.words, k=60)),
        }


def with_text(row, text):
    return json.dumps(row | {"text": text}, ensure_ascii=False).encode()


def inserted(text, part):
    middle = len(text) // 2
    return f"{text[:middle]} {part} {text[middle:]}"


def not_json(soup, row):
    return json.dumps(row).encode()[:-20]


def not_utf8(soup, row):
    return with_text(row, row["text"]).replace(b'"text": "', b'"text": "caf\xe9 ')


def missing(soup, row):
    return json.dumps({name: value for name, value in row.items() if name != "channel"}).encode()


def out_of_range(soup, row):
    return json.dumps(row | {"score": soup.random.choice([-0.5, 1.5, 17])}).encode()


def odd_channel(soup, row):
    return json.dumps(row | {"channel": "pigeon"}).encode()


def mojibake(soup, row):
    wrong = "Grüße aus dem Café".encode().decode("windows-1252")
    return with_text(row, inserted(row["text"], wrong))


def control_chars(soup, row):
    return json.dumps(row | {"text": inserted(row["text"], "\x07")}).encode()


def secret(soup, row):
    key = "AKIA" + "".join(soup.random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=16))
    return with_text(row, inserted(row["text"], key))


def personal_data(soup, row):
    digits = [4] + soup.random.choices(range(10), k=14)
    doubled = [digit if i % 2 else sum(divmod(2 * digit, 10)) for i, digit in enumerate(digits)]
    digits.append(-sum(doubled) % 10)
    return with_text(row, inserted(row["text"], "".join(map(str, digits))))


def same_id(soup, row):
    return json.dumps(row | {"id": soup.random.choice(soup.recent)["id"]}).encode()


def other_city(soup, row):
    return json.dumps(row | {"city": "Elsewhere"}).encode()


def near_duplicate(soup, row):
    words = soup.random.choice(soup.recent)["text"].split(" ")
    words[soup.random.randrange(len(words))] = soup.random.choice(soup.words)
    return with_text(row, " ".join(words))


KINDS = {
    "not_json": not_json,
    "not_utf8": not_utf8,
    "schema:required": missing,
    "range:score": out_of_range,
    "one_of:channel": odd_channel,
    "mojibake": mojibake,
    "control_chars": control_chars,
    "secret": secret,
    "personal_data": personal_data,
    "unique:id": same_id,
    "depends:city": other_city,
    "near_duplicate": near_duplicate,
}


def generate(folder, megabytes, seed):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contract.toml").write_text(CONTRACT)
    soup, planted, size, line = Soup(seed), {}, 0, 0
    kinds = list(KINDS)
    with open(folder / "rows.jsonl", "wb") as file:
        while size < megabytes * 1_000_000:
            line += 1
            row = soup.row(line)
            # The first rows are good, so that there is something to repeat.
            if line > 1000 and soup.random.random() < SHARE:
                kind = soup.random.choice(kinds)
                planted[line] = kind
                text = KINDS[kind](soup, row)
            else:
                text = json.dumps(row).encode()
                soup.recent.append(row)
                if len(soup.recent) > 5000:
                    soup.recent = soup.recent[2500:]
            size += file.write(text + b"\n")
    (folder / "planted.json").write_text(json.dumps({"rows": line, "planted": planted}))
    print(f"{line} rows, {len(planted)} planted faults, {size} bytes")


def check(folder, quarantine):
    truth = json.loads((folder / "planted.json").read_text())
    planted = {int(line): kind for line, kind in truth["planted"].items()}
    found = {row["line"]: row["rule"] for row in json.loads(Path(quarantine).read_text())}
    right, missed, wrong = Counter(), Counter(), Counter()
    for line, kind in planted.items():
        rule = found.get(line)
        counter = right if rule == kind else missed if rule is None else wrong
        counter[kind] += 1
    good_lost = Counter(rule for line, rule in found.items() if line not in planted)
    for kind in KINDS:
        n = sum(1 for other in planted.values() if other == kind)
        print(f"{kind:16} {n:7} planted  {right[kind]:7} right  {wrong[kind]:5} other rule  {missed[kind]:5} missed")
    n_good = truth["rows"] - len(planted)
    print("good rows in quarantine:", dict(good_lost))
    share, lost = sum(right.values()) / len(planted), sum(good_lost.values()) / n_good
    print(json.dumps({"rows": truth["rows"], "planted": len(planted), "right_share": share, "good_lost_share": lost}))
    return share >= 0.99 and lost <= 0.001


def baseline(folder):
    import fastjsonschema
    import jsonschema
    import pyarrow.json
    import tomllib

    schema = tomllib.loads(CONTRACT)["schema"]
    path = folder / "rows.jsonl"
    good = folder / "good.jsonl"
    # Python's readers stop at the first broken row, so they get the ones that parse.
    n_rows = 0
    with open(path, "rb") as file, open(good, "wb") as out:
        for line in file:
            try:
                json.loads(line)
            except ValueError:
                continue
            out.write(line)
            n_rows += 1
    begin = time.perf_counter()
    pyarrow.json.read_json(good)
    read = time.perf_counter() - begin
    rates = {"pyarrow read": n_rows / read}
    for name, validate in [
        ("json + fastjsonschema", fastjsonschema.compile(schema)),
        ("json + jsonschema", jsonschema.Draft202012Validator(schema).validate),
    ]:
        begin, n = time.perf_counter(), 0
        with open(good, "rb") as file:
            for line in file:
                try:
                    validate(json.loads(line))
                except (fastjsonschema.JsonSchemaException, jsonschema.ValidationError):
                    pass
                n += 1
                if n == 100_000:
                    break
        rates[name] = n / (time.perf_counter() - begin)
    # Reading and validating one after the other, as a script would.
    for name in ("json + fastjsonschema", "json + jsonschema"):
        rates[f"pyarrow read + {name}"] = 1 / (1 / rates["pyarrow read"] + 1 / rates[name])
    good.unlink()
    print(json.dumps({name: round(rate) for name, rate in rates.items()}))
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("generate", "check", "baseline"):
        verb = verbs.add_parser(name)
        verb.add_argument("folder", type=Path)
        if name == "generate":
            verb.add_argument("--megabytes", type=int, default=200)
            verb.add_argument("--seed", type=int, default=1)
        if name == "check":
            verb.add_argument("quarantine")
    args = parser.parse_args()
    if args.verb == "generate":
        generate(args.folder, args.megabytes, args.seed)
        return 0
    done = check(args.folder, args.quarantine) if args.verb == "check" else baseline(args.folder)
    return 0 if done else 1


if __name__ == "__main__":
    raise SystemExit(main())
