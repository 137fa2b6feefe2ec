# With --import-mode=importlib a test folder is not importable; `coupling_toys` lies here.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
