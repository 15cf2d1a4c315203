"""robustness/attacks"""
