"""llama.cpp's own HTTP server, from the wheel xllamacpp, until it is ended.

llamacpp_server.py MODEL PORT PARALLEL CONTEXT THREADS
"""

import signal
import sys

import xllamacpp


def main() -> None:
    model = sys.argv[1]
    port, parallel, context, threads = map(int, sys.argv[2:])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = parallel
    # Of all sequences together: each has its equal part.
    params.n_ctx = parallel * context
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    # No prompt comes twice, so none is kept. Else the first token, which all prompts of some models
    # share, would count as cached.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    server = xllamacpp.Server(params)
    print("listening on", server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
