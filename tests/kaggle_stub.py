"""A stand-in for Kaggle on loopback: it plays the replies that a test wrote down, and keeps the requests."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "0123456789abcdef" * 2  # shaped as a Kaggle key is; also stands in signed addresses


class KaggleStub:
    """Answers by the last part of a request's path, whatever its host.

    replies: {last part: reply, or a list of replies, one a request, of which the last stays}; a reply is a dict (JSON),
        text or bytes, or a pair (HTTP status, reply), or a triple with headers in addition.
    asked: [(last part, body)], bodies as JSON where they are; `bodies` picks those of one kind.
    """

    def __init__(self, replies):
        self.replies = {part: list(r) if isinstance(r, list) else [r] for part, r in replies.items()}
        self.asked = []

    def bodies(self, part):
        return [body for asked, body in self.asked if asked == part]

    def answer(self, part, body):
        self.asked.append((part, body))
        queue = self.replies.get(part, [(404, {"code": 404, "message": f"no {part} here"})])
        reply = queue.pop(0) if len(queue) > 1 else queue[0]
        status, content, headers = (*reply, {})[:3] if isinstance(reply, tuple) else (200, reply, {})
        if isinstance(content, dict):
            return status, json.dumps(content).encode(), {"Content-Type": "application/json"} | headers
        return status, content if isinstance(content, bytes) else content.encode(), headers


@contextlib.contextmanager
def play(replies):
    """Run a stub while the context lasts -> KaggleStub, which knows its `address`."""
    stub = KaggleStub(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with contextlib.suppress(ValueError):
                body = json.loads(body)
            part = self.path.split("?")[0].rsplit("/", 1)[-1]
            status, content, headers = stub.answer(part, body)
            self.send_response(status)
            for name, value in {"Content-Length": len(content), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST

        def do_CONNECT(self):
            self.send_error(403, "nothing leaves")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def client_environment(folder, address):
    """The environment in which the real client has made-up credentials and reaches the stub alone."""
    return {
        "HOME": str(folder),
        "KAGGLE_CONFIG_DIR": str(folder / ".kaggle"),
        "KAGGLE_USERNAME": "tester",
        "KAGGLE_KEY": SECRET,
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        **dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"), address),
    }
