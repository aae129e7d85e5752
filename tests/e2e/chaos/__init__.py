"""A lab under chaos: what is intended (pure), what is done to it, what must hold. `test_chaos.py` joins them."""
