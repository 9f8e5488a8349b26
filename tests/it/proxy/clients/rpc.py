"""A gRPC server, or a client that asks it through adt: `serve`, or `ask HTTP_PORT HTTPS_PORT HOST AUTHORITY`."""

import concurrent.futures
import sys
import threading

import grpc


def once(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("first", metadata["asked"]),))
    context.set_trailing_metadata((("last", "trailer"), ("last-bin", b"\x00\xff")))
    return request + b" back"


def many(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def gather(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def talk(requests, context):
    for request in requests:
        yield request + b" back"


def refuse(request, context):
    context.set_trailing_metadata((("reason", "test"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 50% off")


def sleep(request, context):
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(30)
    return b""


def serve():
    handlers = {
        "Once": grpc.unary_unary_rpc_method_handler(once),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Gather": grpc.stream_unary_rpc_method_handler(gather),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
    }
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def status(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details(), dict(error.trailing_metadata() or ())
    raise AssertionError("it worked")


def ask(channel):
    unary = channel.unary_unary("/test.Test/Once")
    answer, call = unary.with_call(b"hello", metadata=(("asked", "head"),), timeout=20)
    assert answer == b"hello back", answer
    assert dict(call.initial_metadata())["first"] == "head"
    trailers = dict(call.trailing_metadata())
    assert (trailers["last"], trailers["last-bin"]) == ("trailer", b"\x00\xff"), trailers
    large = b"x" * (3 << 20)
    assert unary(large, metadata=(("asked", "large"),), timeout=60) == large + b" back"
    numbers = [int(part) for part in channel.unary_stream("/test.Test/Many")(b"5000", timeout=60)]
    assert numbers == list(range(5000))
    parts = (b"x" * 1000 for _ in range(1000))
    assert channel.stream_unary("/test.Test/Gather")(parts, timeout=60) == b"1000000"
    # Each word is sent only when the one before it came back: nothing on the way may wait for more.
    turn, answers = threading.Semaphore(1), []

    def words():
        for number in range(50):
            assert turn.acquire(timeout=20)
            yield b"%d" % number

    for answer in channel.stream_stream("/test.Test/Talk")(words(), timeout=60):
        answers.append(answer)
        turn.release()
    assert answers == [b"%d back" % number for number in range(50)], answers
    code, details, trailers = status(lambda: channel.unary_unary("/test.Test/Refuse")(b"", timeout=20))
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "not today: 50% off"), (code, details)
    assert trailers["reason"] == "test", trailers
    code, _, _ = status(lambda: channel.unary_unary("/test.Test/Nosuch")(b"", timeout=20))
    assert code == grpc.StatusCode.UNIMPLEMENTED, code
    code, _, _ = status(lambda: channel.unary_unary("/test.Test/Sleep")(b"", timeout=0.5))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code


if sys.argv[1] == "serve":
    serve()
else:
    http, https, host, authority = sys.argv[2:]
    name = (("grpc.default_authority", host), ("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0))
    ask(grpc.insecure_channel(f"127.0.0.1:{http}", name))
    with open(authority, "rb") as file:
        trust = grpc.ssl_channel_credentials(file.read())
    ask(grpc.secure_channel(f"127.0.0.1:{https}", trust, name + (("grpc.ssl_target_name_override", host),)))
    print("done")
