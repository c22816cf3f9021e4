"""Conversations that the tests of follow-ups share, written by hand over the project's docs and FastAPI's (MIT)."""

from typing import NamedTuple

from ragsvc.types import Turn


class Case(NamedTuple):
    """A conversation whose last question does not say by itself what it is about, and the passage that answers it."""

    said: tuple[str, ...]
    """Turns before the question, the user's first, in turn."""
    question: str
    path: str
    """End of the path of the file that answers."""
    phrase: str
    """Words of the passage that answers, white space aside."""

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns before the question."""
        return turns(*self.said)


def turns(*said: str) -> tuple[Turn, ...]:
    """Turns of user and assistant in turn, the user's first."""
    return tuple(Turn("assistant" if at % 2 else "user", text) for at, text in enumerate(said))


OWN = (
    Case(
        ("What happens to a renamed file?", "Renaming, moving, copying or reverting a file sends nothing [1]."),
        "And if it is gone?",
        "indexing.md",
        "A file that is gone is removed from the collection",
    ),
    Case(
        ("How do I remove a document by hand?", "`ragsvc documents remove ID` removes one by hand [1]."),
        "Will that be undone by the next run?",
        "indexing.md",
        "the next run brings it back",
    ),
    Case(
        ("Which moderation modes are there?", "`window`, `buffer` and `off` [1]."),
        "What is the default?",
        "settings.md",
        "`window`, `buffer`, or `off`",
    ),
    Case(
        ("Which embedding model does the local provider use?", "all-MiniLM-L6-v2, on the CPU [1]."),
        "How fast is it?",
        "providers.md",
        "about 10 chunks a second",
    ),
    Case(
        ("How large is a chunk?", "At most 512 tokens, of which up to 64 repeat the text before [1]."),
        "Where is that cut?",
        "indexing.md",
        "cut at headings, paragraphs",
    ),
    Case(
        ("On which port does the server listen?", "`ragsvc serve` listens on 127.0.0.1:8000 [1]."),
        "How do I change that?",
        "start.md",
        "Another port is",
    ),
    Case(
        ("What does the status `answered` mean?", "The answer has markers and citations [1]."),
        "And `incomplete`?",
        "asking.md",
        "the model stopped early",
    ),
    Case(
        ("How do I set a price limit for indexing?", "`--max-cost USD` refuses a plan that would cost more [1]."),
        "Which exit code does it give?",
        "indexing.md",
        "refuses a plan that would cost more (exit 5)",
    ),
    Case(
        ("What is a collection?", "A corpus with its own way of cutting and embedding [1]."),
        "How do I create one?",
        "indexing.md",
        "ragsvc collections create",
    ),
    Case(
        ("How do I add phrases to the blocklist of the local moderation?", "Name a file of phrases [1]."),
        "Which setting is that?",
        "settings.md",
        "RAGSVC_LOCAL_BLOCKLIST",
    ),
)

FASTAPI = (
    Case(
        ("How do I disable syntax highlighting in Swagger UI?", "Set `syntaxHighlight` to `False` [1]."),
        "And how do I change its theme?",
        "how-to/configure-swagger-ui.md",
        "syntaxHighlight.theme",
    ),
    Case(
        ("How do I allow cross-origin requests?", "Add `CORSMiddleware` to the application [1]."),
        "Can I use wildcards for that?",
        "tutorial/cors.md",
        "wildcard",
    ),
    Case(
        ("How do I run something after the response is sent?", "Declare a `BackgroundTasks` parameter [1]."),
        "What are the caveats?",
        "tutorial/background-tasks.md",
        "heavy background computation",
    ),
    Case(
        ("How do I serve static files?", "Mount a `StaticFiles()` instance in a path [1]."),
        "What does mounting mean there?",
        "tutorial/static-files.md",
        'complete "independent" application',
    ),
    Case(
        ("How do I test my application?", "Use `TestClient` from `fastapi.testclient` [1]."),
        "What do I have to install for it?",
        "tutorial/testing.md",
        "httpx",
    ),
    Case(
        ("How do I receive an uploaded file?", "Declare a parameter of type `UploadFile` [1]."),
        "What about several at once?",
        "tutorial/request-files.md",
        "possible to upload several files at the same time",
    ),
    Case(
        ("How do I receive an uploaded file?", "Declare a parameter of type `UploadFile` [1]."),
        "Can I make that optional?",
        "tutorial/request-files.md",
        "file optional by using standard type annotations",
    ),
    Case(
        ("How do I return an error to the client?", "Raise an `HTTPException` [1]."),
        "How can I add headers to it?",
        "tutorial/handling-errors.md",
        "add custom headers",
    ),
    Case(
        ("How do I write a middleware?", 'Use the decorator `@app.middleware("http")` on a function [1].'),
        "What if I have more than one? Which runs first?",
        "tutorial/middleware.md",
        "outermost",
    ),
    Case(
        ("How do WebSockets work in FastAPI?", "Create a `websocket` with `@app.websocket` [1]."),
        "How do I notice that a client disconnected?",
        "advanced/websockets.md",
        "WebSocketDisconnect",
    ),
    Case(
        ("How do I get HTTPS certificates?", "Let's Encrypt gives them for free [1]."),
        "How are they renewed?",
        "deployment/https.md",
        "renew",
    ),
    Case(
        ("How do I build a Docker image for my app?", "Write a `Dockerfile` and run `docker build` [1]."),
        "How do I then start it?",
        "deployment/docker.md",
        "Run a container based on your image",
    ),
    Case(
        ("How do I build a Docker image for my app?", "Write a `Dockerfile` and run `docker build` [1]."),
        "And behind a proxy?",
        "deployment/docker.md",
        "--proxy-headers",
    ),
    Case(
        ("How do I declare a query parameter?", "Any parameter that is not part of the path is one [1]."),
        "And make it required?",
        "tutorial/query-params.md",
        "make a query parameter required",
    ),
    Case(
        (
            "How do I declare a query parameter?",
            "Any parameter that is not part of the path is one [1].",
            "What about a maximum length?",
            "Use `Query` with `max_length` [2].",
        ),
        "Can it be a regular expression, too?",
        "tutorial/query-params-str-validations.md",
        "regular expression",
    ),
    Case(
        ("How do I set a cookie in a response?", "Use a `Response` parameter and `set_cookie` [1]."),
        "And how do I read it?",
        "tutorial/cookie-params.md",
        "Cookie",
    ),
    Case(
        ("What does a dependency with yield do?", "It does extra steps after finishing [1]."),
        "Can it raise an HTTPException?",
        "tutorial/dependencies/dependencies-with-yield.md",
        "HTTPException",
    ),
    Case(
        ("How do I structure a bigger application?", "With several files and an `APIRouter` in each [1]."),
        "How do I include those in the main app?",
        "tutorial/bigger-applications.md",
        "app.include_router",
    ),
    Case(
        ("Which status code is returned by default?", "200 [1]."),
        "How do I set another one?",
        "tutorial/response-status-code.md",
        "status_code",
    ),
    Case(
        ("How does OAuth2 with passwords work?", "The client sends username and password as form data [1]."),
        "How are they hashed?",
        "tutorial/security/oauth2-jwt.md",
        "hashing",
    ),
    Case(
        ("How many worker processes can I run?", "`fastapi run --workers 4` starts four [1]."),
        "Do they share memory?",
        "deployment/concepts.md",
        "don't share any memory",
    ),
    Case(
        ("What are lifespan events?", "Code that is run before the application starts [1]."),
        "What did one use before those?",
        "advanced/events.md",
        "deprecated",
    ),
    Case(
        ("Can FastAPI generate clients for TypeScript?", "Yes, from the OpenAPI schema [1]."),
        "How do I get nicer method names in it?",
        "advanced/generate-clients.md",
        "Custom Generate Unique ID Function",
    ),
    Case(
        ("How do I read settings from environment variables?", "With pydantic-settings [1]."),
        "Is that done at each request?",
        "advanced/settings.md",
        "lru_cache",
    ),
)

ELSEWHERE = (
    ("How do I serve static files?", "Mount a `StaticFiles()` instance [1].", "And who won the football match?"),
    ("How do I write a middleware?", "Use a decorator [1].", "How long must it be baked in the oven?"),
    ("How do I receive an uploaded file?", "Use `UploadFile` [1].", "What do penguins say about that?"),
    ("How do I get HTTPS certificates?", "From Let's Encrypt [1].", "Does it cure a headache?"),
    ("How do I build a Docker image?", "Write a `Dockerfile` [1].", "And which wine goes with it?"),
    ("What is a collection?", "A corpus [1].", "Is it taxed in Switzerland?"),
    ("How do I set a cookie?", "With `set_cookie` [1].", "How many calories does it have?"),
    ("Which status code is returned?", "200 [1].", "And what colour is a flamingo?"),
    ("How do I allow cross-origin requests?", "Add `CORSMiddleware` [1].", "And how do I train a dog?"),
    ("How do I allow cross-origin requests?", "Add `CORSMiddleware` [1].", "Is it painted green?"),
    ("How do I allow cross-origin requests?", "Add `CORSMiddleware` [1].", "What about violins?"),
    ("How do I allow cross-origin requests?", "Add `CORSMiddleware` [1].", "How old is the king of it?"),
    ("How do I allow cross-origin requests?", "Add `CORSMiddleware` [1].", "Who invented it in Paris?"),
    ("How do I test my application?", "Use `TestClient` [1].", "Can it swim?"),
    ("How do I test my application?", "Use `TestClient` [1].", "And which mountain is the highest?"),
    ("How do I test my application?", "Use `TestClient` [1].", "How do I roast that with potatoes?"),
    ("How do I test my application?", "Use `TestClient` [1].", "Does it bark at night?"),
    ("How do I test my application?", "Use `TestClient` [1].", "What is its blood pressure?"),
    ("How do I test my application?", "Use `TestClient` [1].", "Which airline flies there?"),
    ("What does the status `answered` mean?", "The answer has citations [1].", "And how do penguins breed?"),
    ("What does the status `answered` mean?", "The answer has citations [1].", "Is it contagious?"),
    ("What does the status `answered` mean?", "The answer has citations [1].", "Do they sell umbrellas?"),
    ("What does the status `answered` mean?", "The answer has citations [1].", "Which opera did he compose?"),
)
"""A conversation about the documents whose last question they do not answer."""
