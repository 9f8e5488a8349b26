"""A WebSocket server, or a client that asks it through adt: `serve`, or `ask HTTP_PORT HTTPS_PORT HOST AUTHORITY`."""

import asyncio
import ssl
import sys

import websockets


async def echo(socket):
    async for message in socket:
        if message == "close":
            await socket.close(4000, "as you wish")
        await socket.send(message)


async def serve():
    async with websockets.serve(echo, "127.0.0.1", 0, subprotocols=["echo"], max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


async def ask(port, host, authority):
    trust = ssl.create_default_context(cafile=authority)
    secure = {"port": port["wss"], "ssl": trust, "server_hostname": host}
    for uri, at in [(f"ws://{host}/chat", {"port": port["ws"]}), (f"wss://{host}/chat", secure)]:
        async with websockets.connect(uri, subprotocols=["echo"], max_size=None, host="127.0.0.1", **at) as socket:
            assert socket.subprotocol == "echo", socket.subprotocol
            # Text, bytes, nothing, more than any buffer holds, and many before the first is read.
            for message in ["hello", "grüß", b"\x00\xff", "", "x" * (3 << 20)]:
                await socket.send(message)
                assert await socket.recv() == message
            for number in range(200):
                await socket.send(str(number))
            assert [await socket.recv() for _ in range(200)] == [str(number) for number in range(200)]
            await asyncio.wait_for(await socket.ping(), 20)
            await socket.send("close")
            await socket.wait_closed()
            assert (socket.close_code, socket.close_reason) == (4000, "as you wish"), socket.close_code
    print("done")


if sys.argv[1] == "serve":
    asyncio.run(serve())
else:
    asyncio.run(ask({"ws": int(sys.argv[2]), "wss": int(sys.argv[3])}, sys.argv[4], sys.argv[5]))
