from __future__ import annotations

from fractions import Fraction

import pytest

from chipmark.errors import BadInputError, UnknownNameError, UsageError
from chipmark.workload.kernel_shapes import KernelShape, kernel_shapes
from chipmark.workload.profile import BUILT_IN, load_profiles, profile
from chipmark.workload.scale import SCALES, Scale, scale_named, scaled_tokens

SIX = (
    "agent-code-32k",
    "agent-code-128k",
    "toolagent-api",
    "func-call",
    "rag-longdoc",
    "chat-control",
)


def own_file(tmp_path, old: str = "", new: str = ""):
    """The 32k profile under another name, with one passage changed."""
    text = BUILT_IN.read_text()
    text = text[text.index('["agent-code-32k"]') : text.index('["agent-code-128k"]')]
    assert old in text
    path = tmp_path / "own.toml"
    path.write_text(text.replace("agent-code-32k", "own").replace(old, new, 1))
    return path


def test_the_six_profiles_load_and_every_parameter_has_a_source() -> None:
    profiles = load_profiles()
    assert tuple(profiles) == SIX
    for p in profiles.values():
        for part in (p.first_prompt, p.turns, p.append, p.output, p.tool_time_s, p.sharing):
            assert part is None or part.source
        assert p.target_hit.source
        assert p.source
        assert (p.arrivals is None) == (p.loop == "closed")


def test_decimals_are_read_exactly_and_times_are_microseconds() -> None:
    p = profile("agent-code-32k")
    assert p.append is not None
    assert p.append.parts[0].sigma_ln == Fraction(23, 20)
    assert p.tool_time_s is not None
    assert (p.tool_time_s.parts[0].median, p.tool_time_s.maximum) == (7_000_000, 60_000_000)
    arrivals = profile("func-call").arrivals
    assert arrivals is not None
    assert arrivals.mean_gap_us == 390_000


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean agent-code-32k"):
        profile("agent-code-32")


def test_a_users_file_adds_profiles(tmp_path) -> None:
    path = own_file(tmp_path, "median = 480", "median = 900")
    mine = profile("own", path)
    assert mine.append is not None
    assert mine.append.parts[0].median == 900
    assert set(load_profiles(path)) == {*SIX, "own"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "median = 480",
            "medain = 480",
            r"field 'own\.append\.median': is missing\nis 'medain' meant",
        ),
        (
            "sigma_ln = 1.15",
            "sigma_ln = 1.15\nmaximun = 9",
            r"field 'own\.append\.maximun': is not a field here; did you mean maximum",
        ),
        (
            "context_cap = 32768",
            "context_cap = -1",
            r"field 'own\.context_cap': must be a whole number",
        ),
        ("context_cap = 32768", "context_cap = 29000", r"maximum below context_cap, 29000"),
        (
            "context_cap = 32768",
            "context_cap = 30001\nmin_tusk = 3",
            r"field 'own\.min_tusk': is not a",
        ),
        (
            'loop = "closed"',
            'loop = "round"',
            r"field 'own\.loop': must be closed or open, not 'round'",
        ),
        (
            "sigma_ln = 0.25",
            "sigma_ln = -0.25",
            r"field 'own\.first_prompt\.sigma_ln': must be a number",
        ),
        ("sigma_ln = 0.25", "sigma_ln = nan", r"own\.toml: "),
        (
            "sigma_ln = 0.25",
            "sigma_ln = true",
            r"field 'own\.first_prompt\.sigma_ln': must be a number",
        ),
        (
            'source = "WEKA, 393',
            'sauce = "WEKA, 393',
            r"field 'own\.first_prompt\.source': is missing",
        ),
        ('kind = "blocks"', 'kind = "draw"', r"field 'own\.sharing\.groups': is missing"),
        ("value = 0.89", "value = 1.89", r"field 'own\.target_hit\.value': must be a number"),
        ('"own".turns]', '"own".turn]', r"field 'own\.turns': is missing\nis 'turn' meant"),
        ('["own"]', '["<own>"]', "a profile's name is letters"),
        ('title = "', "title = ", r"own\.toml: invalid TOML"),
    ],
)
def test_a_mistake_names_the_file_and_the_field(tmp_path, old: str, new: str, says: str) -> None:
    path = own_file(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BadInputError, match=says) as caught:
        load_profiles(path)
    assert "own.toml" in str(caught.value)


def test_a_name_that_is_taken_and_a_file_that_is_absent_are_refused(tmp_path) -> None:
    path = tmp_path / "again.toml"
    path.write_text(BUILT_IN.read_text())
    with pytest.raises(BadInputError, match="field 'agent-code-32k': is already the name"):
        load_profiles(path)
    with pytest.raises(BadInputError, match="no such file"):
        load_profiles(tmp_path / "absent.toml")


def test_scales_are_exact_and_turn_up_in_lowest_terms() -> None:
    assert SCALES["quick"] == Scale("1/16", "1/16", "0")
    assert str(scale_named("0.25, 2/8, 0.1")) == "(1/4, 1/4, 1/10)"
    assert scale_named("standard") is SCALES["standard"]
    assert [scaled_tokens(n, Fraction(1, 16)) for n in (1, 8, 24, 40)] == [1, 1, 2, 3]


@pytest.mark.parametrize("factors", [("0", "1", "1"), ("1/0", "1", "1"), ("1", "-1", "1"), "nan"])
def test_factors_that_are_none_are_refused(factors: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        Scale(*factors)


def test_an_unknown_scale_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean standard"):
        scale_named("standart")


def test_kernel_shapes_follow_the_cap_and_the_scale() -> None:
    p = profile("agent-code-32k")
    full, quick = (kernel_shapes(p, SCALES[name]) for name in ("full", "quick"))
    assert KernelShape("append_prefill", 1, 8192, 32768) in full
    assert KernelShape("decode", 64, 1, 16384) in full
    assert max(s.context_tokens for s in full) == 32768
    assert KernelShape("append_prefill", 1, 32, 1024) in quick
    assert {s.batch for s in quick if s.kind == "decode"} == {1, 4, 16, 64}
    assert len(quick) == len(set(quick)) == len(full)
    assert {s.context_tokens for s in kernel_shapes(profile("chat-control"), Scale())} == {16384}
