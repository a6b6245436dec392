"""Which functions an agent's specialists are."""

from __future__ import annotations

import logging

import pytest
from agents import Handoff

from evolving_agent.contract.config import AgentConfig, ServedModel, Specialist, SpecialistMode
from evolving_agent.contract.tools import BuiltinName, BuiltinTool, HTTPTool, Tool
from evolving_agent.runtime.team import Teams
from evolving_agent.runtime.tools.toolbox import Toolbox

HANDOFF, TOOL = SpecialistMode.HANDOFF, SpecialistMode.TOOL
RECALL = BuiltinTool(type="BuiltIn", name=BuiltinName.RECALL)


def specialist(name: str, mode: SpecialistMode = HANDOFF, tools: tuple[Tool, ...] = ()) -> Specialist:
    return Specialist(
        name=name, description=f"Knows {name}.", instructions=f"You are {name}.", mode=mode, tools=tools
    )


def function(name: str) -> HTTPTool:
    return HTTPTool(
        type="HTTP",
        name=name,
        description="Does it.",
        url="http://127.0.0.1:9/",
        parameters={"type": "object", "properties": {}},
    )


async def offered(
    *specialists: Specialist, tools: tuple[Tool, ...] = ()
) -> tuple[list[str], dict[str, str], frozenset[str]]:
    """The main agent's tools, its hand-offs with those whom they lead to, and all names that are taken."""
    config = AgentConfig(
        revision="support-1",
        model=ServedModel(id="tiny", base_url="http://127.0.0.1:9/v1"),
        instructions="Help.",
        tools=tools,
        specialists=specialists,
    )
    async with Toolbox() as toolbox:
        teams = Teams(toolbox, "support")
        main = await teams.of(config)
        handoffs = {each.tool_name: each.agent_name for each in main.handoffs if isinstance(each, Handoff)}
        assert len(handoffs) == len(main.handoffs)
        return [tool.name for tool in main.tools], handoffs, await teams.names(config)


@pytest.mark.parametrize("pair", [("order-desk", "order_desk"), ("EU", "eu"), ("a" * 50, "a" * 49 + "-")])
async def test_a_hand_off_is_called_exactly_after_its_specialist(pair: tuple[str, str]) -> None:
    _, handoffs, names = await offered(*map(specialist, pair))

    assert handoffs == {f"transfer_to_{name}": name for name in pair}
    assert names == handoffs.keys()
    assert max(map(len, names)) <= 64


@pytest.mark.parametrize("mode", SpecialistMode)
async def test_a_specialist_whose_function_is_a_tools_is_not_offered_and_that_is_said(
    mode: SpecialistMode, caplog: pytest.LogCaptureFixture
) -> None:
    name = "transfer_to_billing" if mode is HANDOFF else "billing"
    with caplog.at_level(logging.ERROR):
        tools, handoffs, names = await offered(
            specialist("billing", mode), specialist("law"), tools=(function(name),)
        )

    assert (tools, handoffs) == ([name], {"transfer_to_law": "law"})
    assert names == {name, "transfer_to_law"}
    assert f"the specialist billing is not offered: a tool is called {name}" in caplog.text


async def test_of_a_specialist_that_is_asked_and_a_hand_off_of_one_name_the_first_is_offered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tools, handoffs, _ = await offered(specialist("transfer_to_billing", TOOL), specialist("billing"))

    assert (tools, handoffs) == (["transfer_to_billing"], {})
    assert "the specialist billing is not offered" in caplog.text


async def test_names_are_those_of_all_that_answer_the_client() -> None:
    """Not of a specialist that is asked: the client's tools are not offered to it."""
    tools, handoffs, names = await offered(
        specialist("billing", tools=(function("refund"), RECALL)),
        specialist("analyst", TOOL, tools=(function("run_code"),)),
        tools=(RECALL,),
    )

    assert (tools, list(handoffs)) == (["recall", "analyst"], ["transfer_to_billing"])
    assert names == {"recall", "analyst", "transfer_to_billing", "refund"}
