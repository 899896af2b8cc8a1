"""The search service of the tutorials: FastAPI, sentence-transformers and qdrant-client without a server.

`python tutorial.py MODEL CORPUS FOLDER PORT`; indexes the corpus first where the folder is empty.
"""

import json
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from qdrant_client import QdrantClient, models
from sentence_transformers import SentenceTransformer

model_name, corpus, folder, port = sys.argv[1:]
model = SentenceTransformer(model_name, device="cpu")
client = QdrantClient(path=folder)
app = FastAPI()


class Question(BaseModel):
    query: str
    k: int = 10


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/search")
def search(question: Question) -> list[dict[str, object]]:
    vector = model.encode(question.query)
    found = client.query_points("documents", query=vector, limit=question.k, with_payload=True)
    return [{"score": point.score, **(point.payload or {})} for point in found.points]


if not client.collection_exists("documents"):
    with Path(corpus).open(encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines]
    vectors = model.encode([f"{one.get('title', '')}\n{one['text']}".strip() for one in documents], batch_size=32)
    size = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
    client.create_collection("documents", size)
    client.upload_points(
        "documents",
        [
            models.PointStruct(id=number, vector=vector.tolist(), payload={"id": one["_id"], "text": one["text"]})
            for number, (one, vector) in enumerate(zip(documents, vectors, strict=True))
        ],
    )
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
