from rlhf.report.comparisons import judge_rows


def test_judges_and_opponents_report_what_they_cost_and_who_voted() -> None:
    details = {
        "judges": [
            {"judge": "chat", "facts": {"answers_asked": 9, "price": 0.5}},
            {"judge": "people", "facts": {"votes": 4, "kappa": -0.1}},
            {"judge": "mine", "facts": {"of_its_own": 1, "price": None}},
        ],
        "opponents": [{"opponent": "chat", "facts": {"answers_asked": 2}}],
    }
    chat, people, opponent = judge_rows(details)

    assert (chat["judge"], chat["answers_asked"], chat["price"]) == ("chat", 9, 0.5)
    assert (chat["votes"], chat["kappa"]) == (None, None)
    assert (people["judge"], people["votes"], people["kappa"]) == ("people", 4, -0.1)
    assert (people["answers_asked"], people["price"]) == (None, None)
    assert (opponent["judge"], opponent["answers_asked"]) == ("chat, as opponent", 2)
