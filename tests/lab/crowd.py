# crowd.py URL ADDRESS ROOTS: asks for the URL at this address every 50 ms, whether earlier answers have come or not, until its input ends.
# One line for each: when it was sent, status, bytes of the body, seconds, and what the client complains of. Status 0: no whole answer.
# One process, since hundreds of waiting ones would use up what the machine has of open files.
import asyncio
import ssl
import sys
import time
from urllib.parse import urlsplit

url, address, roots = sys.argv[1:]
parts = urlsplit(url)
secure = {"ssl": ssl.create_default_context(cafile=roots), "server_hostname": parts.hostname} if parts.scheme == "https" else {}
port = parts.port or (443 if secure else 80)
request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()


async def answer():
    reader, writer = await asyncio.open_connection(address, port, **secure)
    try:
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    if not head:
        return 0, 0, "closed without an answer"
    status, *header = head.decode().split("\r\n")
    header = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in header)}
    whole = body.endswith(b"0\r\n\r\n") if "transfer-encoding" in header else len(body) >= int(header.get("content-length", 0))
    return (int(status.split()[1]), len(body), "") if whole else (0, len(body), "the answer is cut off")


async def ask():
    at, start = time.time(), time.monotonic()
    try:
        status, size, problem = await asyncio.wait_for(answer(), 120)
    except asyncio.TimeoutError:
        status, size, problem = 0, 0, "no answer within 120 s"
    except Exception as error:
        status, size, problem = 0, 0, f"{type(error).__name__} {error}".replace("\n", " ")
    print(f"{at:.3f} {status} {size} {time.monotonic() - start:.6f} {problem}", flush=True)


async def main():
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    asked = set()
    while not end.done():
        asked.add(asyncio.create_task(ask()))
        await asyncio.sleep(0.05)
    await asyncio.gather(*asked)


asyncio.run(main())
