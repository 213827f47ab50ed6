"""A reader in a process of its own, which the kernel ends when it computes for too long: no test hangs."""

import multiprocessing
import resource

from fer_openset.errors import UserError

CPU_SECONDS = 5  # what these tests read takes milliseconds, or else longer than anybody waits


def shared_tuples(steps=60):
    """Opcodes that leave in the memo, at 0, a tuple that holds the same tuple twice, and so on: 2**steps in full."""
    return b"N\x85q\x00" + b"h\x00h\x00\x86q\x00" * steps


def answer(read, *arguments):
    """What a reader says of its arguments: the sentence of its UserError or ValueError, or what it read, as text."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_say, args=(send, read, arguments))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise AssertionError(f"gave no answer within {CPU_SECONDS} s of computing") from None
    finally:
        process.join()


def _say(send, read, arguments):
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    try:
        said = f"read {read(*arguments)}"[:200]
    except (UserError, ValueError) as error:
        said = str(error)
    send.send(said)


def one_sentence(read, path):
    """The sentence by which a reader refuses a file: it names the file, is one line, and short."""
    said = answer(read, path)
    assert said.startswith(f"{path}: ") and "\n" not in said and len(said) < len(str(path)) + 400, said
    return said
