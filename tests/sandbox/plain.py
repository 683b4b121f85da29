"""How programs are often run: fork, exec, a pipe, and a pickle that the parent loads. Called with a job on stdin."""

import fcntl
import json
import os
import pickle
import sys

CHILD = """
import os, pickle, sys
source, argument = open(int(sys.argv[1]), 'rb').read().split(b'\\0\\0')
names = {'__name__': '__main__', 'argument': argument, 'result': ''}
try:
    exec(compile(source, '<program>', 'exec'), names)
    os.write(3, pickle.dumps(names['result'] if isinstance(names['result'], bytes) else str(names['result']).encode()))
except BaseException as error:
    os.write(3, pickle.dumps(f'{type(error).__name__}: {error}'.encode()))
os._exit(0)
"""

if __name__ == "__main__":
    job = json.load(sys.stdin)
    given = fcntl.fcntl(os.memfd_create("given", 0), fcntl.F_DUPFD, 10)
    os.write(given, job["source"].encode("utf-8", "surrogatepass") + b"\0\0" + job["argument"].encode())
    os.lseek(given, 0, 0)
    left_open = fcntl.fcntl(os.open(job["secret"], os.O_RDONLY), fcntl.F_DUPFD, 10)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 3)
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", CHILD, str(given)])
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    try:
        result = b"PWNED: all of it was read" if len(said) > 2 << 20 else pickle.loads(said)
    except Exception as error:
        result = repr(error).encode()
    sys.stdout.buffer.write(b"\nRESULT " + (result if isinstance(result, bytes) else repr(result).encode()))
