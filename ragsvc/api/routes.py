"""The routes: each reads its request, calls the service, and shows what comes back."""

import re
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from indexes.types import DocumentInfo, TextSlice
from ragsvc.api import schemas, sse
from ragsvc.api.errors import NotSupported, UnknownDocument
from ragsvc.api.operations import JSON, Operation
from ragsvc.api.reading import AnyRequest, read_json, read_query
from ragsvc.api.waiting import Readers, while_there
from ragsvc.service import Service
