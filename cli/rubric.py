"""`oyer rubric list|show|render|try`: prints and tests rubrics."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oyer.cli.support import options
from oyer.cli.support.output import notes, print_json
from oyer.protocol.errors import InvalidConfig, InvalidRollout

if TYPE_CHECKING:
    from oyer.config.reward import JudgeConfig, RewardConfig
    from oyer.tasks.judging.requests import JudgeRequest

app = typer.Typer(
    no_args_is_help=True,
    help="List, print, render and test rubrics, the instructions for judges.\n\n"
    "docs/rubrics.md explains how to write one.",
)

UNREAD = 3
"""Exit code if the judge was called, but its reply has no score."""

Rollouts = Annotated[
    Path, typer.Argument(help="JSON lines, one rollout each, as for `oyer score`.")
]
Line = Annotated[int, typer.Option("--line", min=1, help="Line of the file, from 1.")]
JudgeName = Annotated[
    str | None,
    typer.Option("--judge", help="A judge of the configuration; optional if there is one."),
]
RubricName = Annotated[
    str | None,
    typer.Option(
        "--rubric", help="A built-in name or a .md or .txt file, instead of the judge's rubric."
    ),
]


@app.command("list")
def list_(config: options.Config = None, as_json: options.AsJson = False) -> None:
    """List the built-in rubrics and those of the configuration's judges.

    Example: `oyer rubric list`
    """
    from oyer.cli.views import rubric_tables
    from oyer.config import rubric as rubrics
    from oyer.config.loading import load_config

    judges = load_config(config).judges
    texts = {name: rubrics.resolve(name) for name in rubrics.BUILT_IN}
    listed = [rubric_tables.facts(name, text) for name, text in texts.items()]
    for judge in judges:
        same = next((name for name, text in texts.items() if text == judge.rubric), None)
        listed.append(rubric_tables.facts(f"judge {judge.name}", judge.rubric, same_as=same))
    if as_json:
        print_json(listed)
    else:
        rubric_tables.print_list(listed)


@app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(help="A built-in name, a .md or .txt file, or a judge's name.")
    ],
    config: options.Config = None,
    as_json: options.AsJson = False,
) -> None:
    """Print the text of a rubric, with its front matter and placeholders.

    Example: `oyer rubric show reasoning_en > mine.md`
    """
    from oyer.cli.views import rubric_tables
    from oyer.config import rubric as rubrics
    from oyer.config.loading import load_config, read_rubric

    judges = {judge.name: judge.rubric for judge in load_config(config).judges}
    named = name not in rubrics.BUILT_IN and name in judges
    text = judges[name] if named else read_rubric(name)
    if as_json:
        print_json({**rubric_tables.facts(name, text), "text": text})
        return
    typer.echo(text.rstrip("\n"))
    rubric_tables.note_verdict(text)


@app.command("render")
def render(
    rollouts: Rollouts,
    config: options.Config = None,
    line: Line = 1,
    judge: JudgeName = None,
    rubric: RubricName = None,
    as_json: options.AsJson = False,
) -> None:
    """Print the messages that a judge would get for one rollout; nothing is sent.

    `--json` prints the whole request and its hash, `request_hash` in the record; equal requests
    are paid for once. Without judges in the configuration, give `--rubric`.

    Example: `oyer rubric render rollouts.jsonl --line 3 --rubric mine.md`
    """
    from oyer.cli.views import rubric_tables
    from oyer.config.loading import load_config

    settings = load_config(config)
    job = _job(settings, _judge(settings, judge, rubric), rollouts, line)
    if as_json:
        print_json(rubric_tables.request(job, settings))
        return
    rubric_tables.print_request(job)
    _note(job)


@app.command("try")
def try_(
    rollouts: Rollouts,
    config: options.Config = None,
    line: Line = 1,
    judge: JudgeName = None,
    rubric: RubricName = None,
    as_json: options.AsJson = False,
) -> None:
    """Send one rollout to a judge's endpoint, and print the reply and the score parsed from it.

    One request is sent from this host, with this host's key; nothing is recorded. Exit code 0: the
    reply has a score. 3: the judge was called, but the reply has no score. 1: an error before the
    call.

    Example: `oyer rubric try rollouts.jsonl --line 3 --judge quality --rubric mine.md`
    """
    from oyer.cli.support.direct_call import call_judge
    from oyer.cli.views import rubric_tables
    from oyer.config.loading import load_config

    settings = load_config(config)
    chosen = _judge(settings, judge, rubric)
    if chosen.endpoint not in settings.endpoints:
        raise InvalidConfig(
            f"judges.{chosen.name}.endpoint: {chosen.endpoint!r} is not under `endpoints` of this"
            " configuration; give the workers' configuration with --config"
        )
    job = _job(settings, chosen, rollouts, line)
    trial = call_judge(job, settings).record()
    if as_json:
        print_json({**rubric_tables.request(job, settings), **trial})
    else:
        rubric_tables.print_request(job)
        rubric_tables.print_trial(trial)
        _note(job)
    if trial["status"] != "scored":
        raise typer.Exit(UNREAD)


def _judge(settings: "RewardConfig", name: str | None, rubric: str | None) -> "JudgeConfig":
    """Choose a judge of the configuration, or make a placeholder for rendering."""
    from oyer.config import rubric as rubrics
    from oyer.config.loading import read_rubric
    from oyer.config.reward import JudgeConfig

    judges = {judge.name: judge for judge in settings.judges}
    text = None if rubric is None else read_rubric(rubric)
    if not judges and name is None:
        if text is None:
            raise InvalidConfig("--rubric: name one, since the configuration has no judges")
        return JudgeConfig(name="none", endpoint="none", model="none", rubric=text)
    if name is None and len(judges) > 1:
        raise InvalidConfig(f"--judge: the configuration has {', '.join(judges)}; name one")
    if name is not None and name not in judges:
        known = ", ".join(judges) or "none"
        raise InvalidConfig(f"--judge: there is no judge {name!r}; the configuration has {known}")
    judge = judges[name] if name is not None else settings.judges[0]
    if text is None:
        return judge
    raw = {**judge.model_dump(), "rubric": text}
    if judge.gives_verdicts or rubrics.parse(text).reply == "verdicts":
        del raw["scale"]
    return JudgeConfig.model_validate(raw)


def _job(settings: "RewardConfig", judge: "JudgeConfig", path: Path, line: int) -> "JudgeRequest":
    """Build a judge's first request about one line of a file, as a worker builds it."""
    from oyer.cli.support.jsonl import read_rollout
    from oyer.protocol.status import Status
    from oyer.tasks.coordination.lessons import server_identity
    from oyer.tasks.judging.requests import decided_without_call, requests_of

    rollout = read_rollout(path, line)
    if decided_without_call(rollout, settings.reward) is Status.GATED:
        notes.print(
            f"line {line}: its base score is not positive, so under reward.gate: base_score it is"
            " `gated`, and no judge is called",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    rules = settings.reward.model_copy(update={"gate": "none"})
    bodies = {name: endpoint.extra_body for name, endpoint in settings.endpoints.items()}
    servers = {name: server_identity(endpoint) for name, endpoint in settings.endpoints.items()}
    job = next(requests_of({0: rollout}, [judge], rules, bodies, servers))
    if job.request is None:
        why = job.error or "its response has no text to judge"
        raise InvalidRollout(
            f"{path}: line {line}: {why}; its status is `{job.decided}`, and no request is sent"
        )
    return job


def _note(job: "JudgeRequest") -> None:
    from oyer.cli.views import rubric_tables

    if not job.judge.structured:
        rubric_tables.note_verdict(job.judge.rubric)
