"""Which of many starts a fit descends from."""

import math

from sde_diffusion.fitting.race import FINALISTS, LAP, race


def to(floor, taken):
    """Descents that halve what is left to floor[i], each start's own, and count their steps."""

    def descent(i, theta):
        for _ in range(40):
            theta = floor[i] + 0.5 * (theta - floor[i])
            taken[i] += 1
            yield theta

    return descent


def reached(standing, theta):
    return standing, float(theta)


def run(starts, floor, limit=1000):
    """(finalists, steps that each start took), called off after `limit` steps of all."""
    taken = [0] * len(starts)
    _, ahead = race(starts, to(floor, taken), reached, None, lambda: sum(taken) < limit)
    return ahead, taken


def test_the_start_that_leads_lowest_wins_over_the_lowest_start():
    starts, floor = [8.0, 9.0, 10.0, 11.0, 12.0], [7.0, 5.0, 0.0, 6.0, 4.0]
    ahead, taken = run(starts, floor)
    assert len(ahead) == FINALISTS
    assert ahead[0] == 10.0 * 0.5 ** taken[2]
    assert ahead == sorted(ahead)


def test_half_of_them_go_on_after_each_lap():
    starts = [10.0 + i for i in range(8)]
    _, taken = run(starts, starts[::-1])
    assert sorted(taken) == [LAP] * 4 + [2 * LAP] * 4


def test_it_is_called_off_as_it_stands():
    starts = [10.0 + i for i in range(8)]
    ahead, taken = run(starts, [0.0] * 8, limit=2 * LAP + 1)
    assert taken == [LAP, LAP, 1, 0, 0, 0, 0, 0]
    assert ahead == [10.0 / 2**LAP, 11.0 / 2**LAP]


def test_called_off_before_it_began_the_first_starts_win():
    ahead, taken = run([10.0, 11.0, 12.0], [0.0] * 3, limit=0)
    assert ahead == [10.0, 11.0]
    assert taken == [0, 0, 0]


def test_a_descent_that_is_over_stays_where_it_ended():
    _, ahead = race([3.0, 1.0, 2.0], lambda i, theta: iter(()), reached, None, lambda: True)
    assert ahead == [1.0, 2.0]


def test_an_error_that_is_infinite_comes_last():
    def reached(standing, theta):
        return standing, math.inf if theta == 1.0 else theta

    _, ahead = race([3.0, 1.0, 2.0], lambda i, theta: iter(()), reached, None, lambda: True)
    assert ahead == [2.0, 3.0]


def test_what_is_known_is_handed_on_from_lap_to_lap():
    def reached(seen, theta):
        return [*seen, theta], theta

    descents = {1.0: [0.5, 0.25, 0.2], 2.0: [1.9, 1.8, 1.7], 3.0: [2.5, 2.4, 2.3]}
    seen, _ = race(
        list(descents), lambda i, theta: iter(descents[theta]), reached, [], lambda: True
    )
    assert seen == [0.2, 1.7, 2.3]
