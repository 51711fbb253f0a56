"""A small S3 server in memory, with what the real ones do that matters here: signatures (SigV4) that are checked, puts
on condition, ranges, listings page by page, uploads in parts of at least 5 MiB. It can be told to fail, to hang up, to cut
answers off, to hold requests back, and to ignore conditions."""

import hashlib
import hmac
import re
import threading
from datetime import datetime, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

KEY, SECRET, REGION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "eu-central-1"
MIN_PART_BYTES = 5 << 20
PAGE = 2


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status, code, message=""):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


class Asked:
    """A request, as faults and tests see it."""

    def __init__(self, method, path, query, headers, body):
        self.method, self.query, self.headers, self.body = method, query, headers, body
        self.bucket, _, self.key = unquote(path).lstrip("/").partition("/")
        self.status = None

    def is_(self, method, end):
        return self.method == method and self.key.endswith(end)


class S3:
    """`fault` is called for each request before it is done and returns None, a status, or one of "hang up" (before it is
    done), "lose" (after it is done) and "cut" (in the middle of the answer)."""

    def __init__(self, tls=None):
        """`tls` is a context for servers."""
        self.objects = {"bucket": {}}
        self.uploads, self.completed, self.asked = {}, {}, []
        self.lock = threading.Lock()
        self.fault = lambda asked: None
        # Conditions that it does not heed in a put: "if-match", "if-none-match".
        self.ignored = set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do(self):
                server.answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        if tls:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        # Of clients that are gone.
        self.http.handle_error = lambda request, address: None
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.http.server_address[1]}"

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def variables(self, **others):
        """What a user sets to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_MAX_ATTEMPTS": "4",
        } | others

    def done(self, method, pattern):
        """The requests of a method for keys of a pattern that were done."""
        with self.lock:
            return [asked for asked in self.asked if asked.method == method and re.search(pattern, asked.key)
                    and asked.status and asked.status < 300]

    # An answer.

    def answer(self, handler):
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        url = urlsplit(handler.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        asked = Asked(handler.command, url.path, query, handler.headers, body)
        fault = self.fault(asked)
        if fault == "hang up":
            return self.hang_up(handler)
        try:
            if isinstance(fault, int):
                raise Refused(fault, "SlowDown" if fault == 503 else "Fault")
            check_signature(handler.command, url, asked)
            with self.lock:
                status, headers, content = self.do(asked)
        except Refused as refused:
            status, headers = refused.status, {}
            content = (f"<Error><Code>{refused.code}</Code><Message>{escape(refused.message)}</Message></Error>").encode()
        asked.status = status
        with self.lock:
            self.asked.append(asked)
        if fault == "lose":
            return self.hang_up(handler)
        handler.send_response(status)
        headers = {"content-length": str(len(content))} | headers
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if fault == "cut":
            handler.wfile.write(content[: len(content) // 2])
            return self.hang_up(handler)
        if handler.command != "HEAD":
            handler.wfile.write(content)

    @staticmethod
    def hang_up(handler):
        handler.close_connection = True
        handler.wfile.flush()

    def do(self, asked):
        """Status, headers and content of what was asked for, under the lock."""
        objects = self.objects.get(asked.bucket)
        if objects is None:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist")
        if not asked.key:
            return self.listing(objects, asked.query)
        if "uploads" in asked.query or "uploadId" in asked.query:
            return self.parts(objects, asked)
        there = objects.get(asked.key)
        if asked.method == "PUT":
            named = "if-none-match", "if-match"
            condition = [None if name in self.ignored else asked.headers.get(name) for name in named]
            if (condition[0] == "*" and there is not None) or (
                condition[1] is not None and (there is None or condition[1] != tag(there))
            ):
                raise Refused(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
            objects[asked.key] = asked.body
            return 200, {"ETag": tag(asked.body)}, b""
        if there is None:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        assert asked.method in ("GET", "HEAD"), asked.method
        if asked.headers.get("if-match", tag(there)) != tag(there):
            raise Refused(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
        headers = {"ETag": tag(there), "Last-Modified": formatdate(0, usegmt=True)}
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
        if not ranged:
            size = {"content-length": str(len(there))}
            return 200, headers | size, there
        begin, end = int(ranged[1]), min(int(ranged[2] or len(there) - 1), len(there) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(there)}"
        return 206, headers, there[begin : end + 1]

    def listing(self, objects, query):
        assert query.get("list-type") == "2", query
        after = query.get("continuation-token", "")
        keys = sorted(key for key in objects if key.startswith(query.get("prefix", "")) and key > after)
        page, more = keys[:PAGE], len(keys) > PAGE
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{now}</LastModified><ETag>{escape(tag(objects[key]))}</ETag>"
            f"<Size>{len(objects[key])}</Size></Contents>" for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{contents}{token}</ListBucketResult>"
        return 200, {"content-type": "application/xml"}, text.encode()

    def parts(self, objects, asked):
        if asked.method == "POST" and "uploads" in asked.query:
            upload = f"upload {len(self.uploads) + len(self.completed)}/+"
            self.uploads[upload] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return 200, {}, text.encode()
        upload = asked.query["uploadId"]
        if asked.method == "POST" and upload in self.completed:
            return 200, {}, self.completed[upload]
        parts = self.uploads.get(upload)
        if parts is None:
            raise Refused(404, "NoSuchUpload")
        if asked.method == "PUT":
            parts[int(asked.query["partNumber"])] = asked.body
            return 200, {"ETag": tag(asked.body)}, b""
        if asked.method == "DELETE":
            del self.uploads[upload]
            return 204, {}, b""
        named = [
            (int(part.findtext("{*}PartNumber")), part.findtext("{*}ETag"))
            for part in ElementTree.fromstring(asked.body).iter() if part.tag.endswith("Part")
        ]
        if [(number, tag(parts[number])) for number, _ in named] != named:
            raise Refused(400, "InvalidPart")
        bodies = [parts[number] for number, _ in named]
        if any(len(body) < MIN_PART_BYTES for body in bodies[:-1]):
            raise Refused(400, "EntityTooSmall")
        objects[asked.key] = b"".join(bodies)
        del self.uploads[upload]
        text = f"<CompleteMultipartUploadResult><ETag>{escape(tag(objects[asked.key]))}</ETag></CompleteMultipartUploadResult>"
        self.completed[upload] = text.encode()
        return 200, {}, self.completed[upload]


def tag(content):
    return f'"{hashlib.md5(content).hexdigest()}"'


def check_signature(method, url, asked):
    """As AWS computes it: of the request as it came, the body's digest included."""
    given = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)",
        asked.headers.get("authorization", ""),
    )
    if not given:
        raise Refused(403, "AccessDenied", "The request is not signed")
    key, day, region, names, signature = given.groups()
    if key != KEY:
        raise Refused(403, "InvalidAccessKeyId", "The key is not known")
    if region != REGION:
        raise Refused(400, "AuthorizationHeaderMalformed", f"the region is wrong; expecting '{REGION}'")
    digest = asked.headers["x-amz-content-sha256"]
    if digest != hashlib.sha256(asked.body).hexdigest():
        raise Refused(400, "XAmzContentSHA256Mismatch", digest)
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(url.query, keep_blank_values=True)
    )
    canonical = "\n".join([
        method, url.path, "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{' '.join(asked.headers[name].split())}" for name in names.split(";")), "", names, digest,
    ])
    scope = f"{day}/{region}/s3/aws4_request"
    signed = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{asked.headers['x-amz-date']}\n{scope}\n{signed}"
    secret = ("AWS4" + SECRET).encode()
    for part in [*scope.split("/"), text]:
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    if secret.hex() != signature:
        raise Refused(403, "SignatureDoesNotMatch", "The signature we calculated is another one")
    for name in ("host", "x-amz-date", "x-amz-content-sha256"):
        if name not in names.split(";"):
            raise Refused(403, "AccessDenied", f"{name} is not signed")
