"""What the operator and the agent image agree on: environment, configuration, reports.

Only pydantic and the standard library are imported here, so that the operator can depend on
this package without depending on the agent. Every document carries a version; a reader refuses
a version that it does not know.
"""
