"""What a run leaves behind: metrics, samples, a summary, and one HTML file that shows them.

Everything here reads and writes the run folder and nothing else. In a distributed run the main process
gathers and writes; the writers take no locks.
"""
