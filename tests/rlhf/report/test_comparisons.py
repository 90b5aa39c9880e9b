from rlhf.common.yaml import parse_yaml
from rlhf.report.comparisons import judge_rows
from rlhf.settings import preset_text, settings_from


def test_judges_with_costs_or_votes_have_a_row() -> None:
    content = parse_yaml(preset_text("tiny"), "tiny")
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
    content["evaluate"] |= {
        "judges": ["gold", "api:chat", "people:votes.jsonl"],
        "endpoints": {"chat": endpoint},
    }
    summary = {"chat_answers_asked": 9, "chat_price": 0.5, "people_votes": 4, "people_kappa": -0.1}
    chat, people = judge_rows(settings_from(content), summary)

    assert (chat["judge"], chat["answers_asked"], chat["price"]) == ("chat", 9, 0.5)
    assert (chat["votes"], chat["kappa"]) == (None, None)
    assert (people["judge"], people["votes"], people["kappa"]) == ("people", 4, -0.1)
    assert (people["answers_asked"], people["price"]) == (None, None)
