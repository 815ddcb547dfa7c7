import numpy as np
import torch

from casebook.cases import View
from segmenter.concept import SCALE, ConceptQuery, concept_loss, detection_loss, targets_of
from segmenter.heads import view_numbers
from segmenter.interactive import upsampled
from segmenter.prompts import from_grey
from segmenter.sam3 import Sam3
from segmenter.views import ViewEmbedding


def instances(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    masks = torch.zeros(len(boxes), 64, 64, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def test_targets_hold_each_instance_box_as_fractions_of_the_square() -> None:
    target = targets_of(
        [
            ConceptQuery(0, "a", instances((0, 0, 32, 16), (16, 32, 32, 64))),
            ConceptQuery(0, "b", instances()),
        ]
    )
    assert target.num_boxes.tolist() == [2, 0]
    assert target.boxes.tolist() == [[0.25, 0.125, 0.5, 0.25], [0.375, 0.75, 0.25, 0.5]]
    assert target.object_ids_padded.tolist() == [[0, 1], [-1, -1]]
    assert target.semantic_segments[1].sum() == 0


def test_a_few_steps_lower_the_detection_loss_for_present_and_absent_concepts(small: Sam3) -> None:
    pixels = from_grey(np.random.default_rng(0).integers(0, 255, (2, 64, 64)).astype(np.uint8))
    queries = [
        ConceptQuery(0, "bar", instances((4, 4, 40, 12))),
        ConceptQuery(1, "bar", instances((10, 30, 30, 60), (40, 40, 60, 60))),
        ConceptQuery(1, "ring", instances()),
    ]
    small.train()
    criterion = detection_loss(small.config.queries)
    optimizer = torch.optim.AdamW(small.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = concept_loss(small, criterion, pixels, queries)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(small.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(np.isfinite(losses))
    assert losses[-1] < 0.8 * losses[0]


def test_a_view_reaches_the_answer_through_its_embedding_alone(small: Sam3) -> None:
    pixels = torch.randn(1, 3, 64, 64)
    index = torch.tensor([0, 0])
    left, right = View(primary_deg=40, secondary_deg=0), View(primary_deg=-40, secondary_deg=20)

    def answers(*views: View | None) -> torch.Tensor:
        with torch.no_grad():
            vision = small.concept_features(small.trunk(pixels))
            text = small.text_features(["bar"])
            told = small.ground(vision, text, index, 0 * index, views=view_numbers(views))
        found: torch.Tensor = told["semantic_seg"]
        return found

    plain = answers(left, right)
    assert torch.allclose(plain[0], plain[1], atol=1e-5)
    small.view_embedding = ViewEmbedding(small.config.width)
    assert torch.allclose(answers(left, right), plain, atol=1e-5)  # it adds nothing yet
    torch.nn.init.normal_(small.view_embedding.join.weight)
    told = answers(left, right)
    assert not torch.allclose(told[0], told[1], atol=1e-3)
    assert torch.allclose(answers(left, None)[0], told[0], atol=1e-4)
    assert torch.allclose(answers(None, None), plain, atol=1e-5)


def test_two_names_of_one_picture_are_told_apart_by_where_they_lie(small: Sam3) -> None:
    """Without the term that tells them apart each name means both bars at this step."""
    names = ("left bar", "right bar")

    def asked(step: int) -> tuple[torch.Tensor, list[ConceptQuery]]:
        rng = np.random.default_rng((5, step))
        pixels = rng.integers(150, 190, (2, 64, 64)).astype(np.uint8)
        queries = []
        for index, square in enumerate(pixels):
            for name, middle in zip(names, (16, 48), strict=True):
                x, y = middle + int(rng.integers(-2, 3)), int(rng.integers(8, 21))
                square[y : y + 32, x - 2 : x + 2] = 60
                bar = instances((x - 2, y, x + 2, y + 32))
                queries.append(ConceptQuery(index, name, bar))
        return from_grey(pixels), queries

    small.train()
    criterion = detection_loss(small.config.queries)
    optimizer = torch.optim.AdamW(small.parameters(), lr=2e-3)
    for step in range(90):
        pixels, queries = asked(step)
        terms = concept_loss(small, criterion, pixels, queries, 5.0)
        optimizer.zero_grad()
        (terms["loss"] / SCALE).backward()
        torch.nn.utils.clip_grad_norm_(small.parameters(), 1.0)
        optimizer.step()
    small.eval()
    pixels, queries = asked(10**6)
    with torch.no_grad():
        vision, text = small.concept_features(small.trunk(pixels)), small.text_features(names)
        index = torch.tensor([query.image_index for query in queries])
        dense = small.dense(vision, text, index, torch.tensor([0, 1, 0, 1]))
        maps = upsampled(dense, 64)
    truth = torch.cat([query.instances for query in queries])
    own = [float(maps[row][truth[row]].mean()) for row in range(4)]
    other = [float(maps[row ^ 1][truth[row]].mean()) for row in range(4)]
    assert all(mine > theirs + 1 for mine, theirs in zip(own, other, strict=True))
