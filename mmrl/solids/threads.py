"""The kernel's own threads."""

from __future__ import annotations


def one_thread() -> None:
    """Let the kernel do all in the thread that asks, for the rest of this process and of its forks.

    CadQuery's boolean operations ask for threads. Those that were started before a fork are not in the fork, which then
    waits for them for ever; and a program has one processor.
    """
    from OCP.OSD import OSD_Parallel, OSD_ThreadPool

    OSD_Parallel.SetUseOcctThreads_s(True)
    OSD_ThreadPool.DefaultPool_s(1)
