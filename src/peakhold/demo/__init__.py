"""The demo: real data, the whole stack, its own claims asserted."""
