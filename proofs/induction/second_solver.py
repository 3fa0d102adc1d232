"""Ask a second solver, cvc5, the questions that z3 has written. It is unlikely that both make the same error."""

import cvc5  # type: ignore[import-untyped]

STEPS = 10_000_000
"""The limit of cvc5's own step count for one question. The hardest question needs a hundredth of it."""


def verdict(text: str) -> str:
    """What cvc5 says of a question in SMT-LIB: "unsat" or "sat", and "unknown" with a reason where it gives up.

    Raises ``RuntimeError`` where it can't read it.
    """
    manager = cvc5.TermManager()  # nothing is kept from one question to the next
    solver = cvc5.Solver(manager)
    solver.setLogic("ALL")
    solver.setOption("rlimit", str(STEPS))
    parser = cvc5.InputParser(solver)
    parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "question")
    symbols = parser.getSymbolManager()
    said = []
    while not (command := parser.nextCommand()).isNull():
        said.append(command.invoke(solver, symbols))
    return "".join(said).strip()
