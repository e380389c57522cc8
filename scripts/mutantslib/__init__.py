"""The parts of `scripts/mutants`, one idea a file.

mutant        one small change of the source: a name that lasts, a diff
python_rules  every mutant of a Python file, made from its syntax tree
c_rules       every mutant of a C file, made from its lines
ladder        the checks of a file, cheapest first
workshop      copies of the checkout, built with one mutant, in which checks run and end
record        what was tried, in a file of JSON lines; scores by file; those that are equivalent
planted       the faults made by hand (tests/faults/), each with its checks
"""
