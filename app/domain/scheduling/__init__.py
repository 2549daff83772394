"""Which waiting job a backend takes, and what is remembered to decide it: pure functions over plain data.

`choice` decides, over the jobs and backends of `jobs` and `fleet`; `reach` says who may be passed over, and how often.
`warm_models` and `learned_times` keep what earlier runs have shown. `make simulate` plays the same functions in virtual
time. The order of waiting jobs itself is the claim's ORDER BY.
"""
