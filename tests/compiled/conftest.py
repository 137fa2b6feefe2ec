import sys
from pathlib import Path

# With --import-mode=importlib a test folder is not importable; `program_cases` lies here.
sys.path.insert(0, str(Path(__file__).parent))
