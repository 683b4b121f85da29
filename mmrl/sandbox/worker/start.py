"""Run by the worker's interpreter with -s -P: makes a bare package `mmrl` of this one, and nothing else of its folder.

The interpreter need not have mmrl, nor any package of the trainer's.
"""

import sys
from pathlib import Path
from types import ModuleType

package = ModuleType("mmrl")
package.__path__ = [str(Path(__file__).resolve().parents[2])]
sys.modules["mmrl"] = package

if __name__ == "__main__":
    from mmrl.sandbox.worker.template import main

    main(int(sys.argv[1]), sys.argv[2])
