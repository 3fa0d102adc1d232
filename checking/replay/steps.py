"""Take a step of the model in the implementation."""

from __future__ import annotations

from checking.errors import CheckError
from checking.replay import operation_steps, process_steps
from checking.replay.transitions import Step
from checking.replay.world import World


async def take(world: World, step: Step) -> bool:
    """Let the implementation take a step. Return whether it could. Raises ``CheckError`` if ``world`` is strict."""
    match step.action:
        case "Acquire":
            return await process_steps.acquire(world, step.process)
        case "Want":
            return not await process_steps.acquire(world, step.process)
        case "Sync":
            return await process_steps.sync(world, step.process)
        case "SyncFails":
            return await process_steps.sync_fails(world, step.process, released=step.released)
        case "Renew":
            return await process_steps.renew(world, step.process)
        case "LoseGuard":
            return await process_steps.lose_guard(world, step.process, step.way)
        case "Release":
            return await process_steps.release(world, step.process)
        case "Listen":
            return await process_steps.listen(world, step.process)
        case "Crash":
            await world.crash(step.process)
        case "Expire":
            world.expire_lease()
        case "Truncate":
            await world.truncate()
        case "Forget":
            process_steps.forget(world, step.process, min(step.records))
        case "Begin":
            return await operation_steps.begin(world, step.operation, step.mode)
        case "Load":
            return await operation_steps.load(world, step.operation, min(step.records))
        case "Fill":
            return await operation_steps.fill(world, step.operation)
        case "Commit":
            return await operation_steps.commit(world, step.operation, step.records)
        case "Validate":
            return await operation_steps.validate(world, step.operation)
        case "Fail":
            return await operation_steps.fail(world, step.operation)
        case "Finish":
            return await operation_steps.finish(world, step.operation)
        case "Lose":
            return await operation_steps.lose(world, step.operation, step.way or "commit")
        case "Outdated":
            return await operation_steps.outdated(world, step.operation, min(step.records), step.way or "load")
        case "Call":
            return True  # only the caller takes this step: it waits from now on
        case "JumpBack":
            world.jump_back()
        case "LoseAll":
            lost = await process_steps.lose_guard(world, step.process)
            if step.operation in world.processes[step.process].actors:
                await operation_steps.lose(world, step.operation)
            return lost
        case "StopRenewing":
            process_steps.stop_renewing(world, step.process)
        case "WriteBegins":
            return await operation_steps.write_begins(world, step.operation)
        case "WriteEnds":
            return await operation_steps.write_ends(world, step.operation)
        case "Abort" | "ForgetCommit":
            return await operation_steps.abort(world, step.operation, step.way or "cancelled")
        case _:
            raise CheckError(f"the replay has no counterpart of the action {step.action}")
    return True
