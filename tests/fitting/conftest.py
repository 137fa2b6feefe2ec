import sys
from pathlib import Path

# With --import-mode=importlib a test folder is not importable; these modules lie here.
sys.path.insert(0, str(Path(__file__).parent))
