"""``shard_map``: a forward and a backward ``shard_map`` over the same mesh.

The body runs on a tape of its own, inside. What crosses between the two halves is laid out over every axis that the map
makes manual, since nothing is known of how a residual varies from device to device.
"""

from __future__ import annotations

import math
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import set_current_trace, take_current_trace
from funcgrad.engine.recording import Recording
from funcgrad.engine.split import source_of
from funcgrad.engine.tape import Tape, is_differentiable
from funcgrad.engine.zero import Zero
from funcgrad.rules.rule import Rule


class ShardMap(Rule):
    formula = "the backward half of the body, on every device"
    saved = ("residuals",)
    #: The body may close over what is differentiated.
    always = True

    def record(self, tape, primitive, primals, tracers, params, linear):
        primals = tape.values(primals)
        (fun,), in_specs = params["subfuns"], params["in_specs"]
        shared = {name: params[name] for name in ("mesh", "check_vma", "newly_manual_axes")}
        shared["debug_info"] = params["debug_info"].with_unknown_names()
        refs = [i for i, t in enumerate(tracers) if t is not None and _jax.is_ref(t.aval)]
        names = _jax.manual_names(params["mesh"], params["newly_manual_axes"])
        body: dict[str, Any] = {}

        def forward(*values: Any) -> Any:
            with take_current_trace() as parent:
                inner = Tape(parent, tape.rules, outer=tape)
                args = [
                    inner.activate(x) if t is not None and is_differentiable(x) else x
                    for x, t in zip(values, tracers, strict=True)
                ]
                body["in_slots"] = [inner.strip(x)[1] for x in args]
                with set_current_trace(inner):
                    out, out_specs = fun(*args).unpack_aux()
                stripped = [inner.strip(x) for x in out.vals]
            body["out_slots"] = [slot for _, slot in stripped]
            body["content_slots"] = [inner.strip(args[i])[1] for i in refs]
            recording = Recording.of(inner, [*body["out_slots"], *body["content_slots"]])
            leaves, skeleton = recording.flatten(_jax.is_tracer)
            new: list[Any] = []
            outs = [x for x, _ in stripped]
            body["sources"] = [source_of(leaf, values, outs, new) for leaf in leaves]
            body["skeleton"] = skeleton
            body["captured"] = inner.captured
            body["out_specs"] = list(out_specs)
            body["is_scalar"] = [getattr(x, "shape", None) == () for x in new]
            mesh, checked = params["mesh"], params["check_vma"]
            body["specs"] = [_jax.device_varying_spec(_jax.typeof(x), mesh, checked, names) for x in new]
            new = [lax.broadcast(x, (1,)) if scalar else x for x, scalar in zip(new, body["is_scalar"], strict=True)]
            return _jax.flat_tree(new, out.update(outs)).with_aux((*body["specs"], *out_specs))

        avals = [_jax.typeof(x) for x in primals]
        bound = {**shared, "in_specs": in_specs, "subfuns": (forward,)}
        residuals_out, out = primitive.bind_with_trace(tape.parent, primals, avals, bound).unpack()
        new, outs = list(residuals_out.vals), list(out.vals)
        captured = list(body["captured"].values())
        out_active = [slot is not None for slot in body["out_slots"]]
        if linear:
            outs = [Zero(_jax.typeof(x)) if a else x for x, a in zip(outs, out_active, strict=True)]
        places = {"in": (primals, in_specs), "out": (outs, body["out_specs"]), "new": (new, body["specs"])}
        residuals = tuple([places[kind][0][i] for kind, i in body["sources"]])
        specs = [places[kind][1][i] for kind, i in body["sources"]]
        squeezed = [kind == "new" and body["is_scalar"][i] for kind, i in body["sources"]]
        static = (body, shared, in_specs, specs, squeezed, [t is not None for t in tracers])
        outer = [outside for outside, _ in captured]
        outs = tape.emit(self, primitive, {}, static, residuals, [*tracers, *outer], outs, active=out_active)
        contents = zip(refs, body["content_slots"], strict=True)
        tape.write(tracers[i] if slot != body["in_slots"][i] else None for i, slot in contents)
        body["content_specs"] = [in_specs[i] for i in refs]
        return out.update(outs)

    def pullback(self, node, cts):
        body, shared, in_specs, specs, squeezed, active = node.static
        mesh, manual, checked = shared["mesh"], shared["newly_manual_axes"], shared["check_vma"]
        out_specs = [s.to_ct_spec() for s in (*body["out_specs"], *body["content_specs"])]
        if not checked:
            # Without types for replication an output that does not name an axis is the same on all its devices, and
            # each of them gets an equal share of the cotangent.
            cts = [
                None
                if ct is None
                else shared_equally(ct, math.prod(mesh.shape[n] for n in _jax.unmentioned(mesh, s, manual)))
                for ct, s in zip(cts, out_specs, strict=True)
            ]
        present = [ct is not None for ct in cts]
        captured = [slot for _, slot in body["captured"].values()]
        in_ct_specs = [s.to_ct_spec() for s, a in zip(in_specs, active, strict=True) if a]
        in_ct_specs += [_jax.replicated_spec(outside.aval).to_ct_spec() for outside, _ in body["captured"].values()]
        slots = [s for s, a in zip(body["in_slots"], active, strict=True) if a] + captured
        asked = node.wanted or (True,) * len(slots)
        slots = [slot if w else None for slot, w in zip(slots, asked, strict=True)]
        mask: list[bool] = []

        def backward(*args: Any) -> Any:
            residuals = [lax.squeeze(x, [0]) if s else x for x, s in zip(args, squeezed, strict=False)]
            rest = iter(args[len(residuals) :])
            recording = body["skeleton"].unflatten(residuals)
            if node.wanted is not None:
                recording, _ = recording.towards(slot for slot in slots if slot is not None)
            out_slots = (*body["out_slots"], *body["content_slots"])
            inner_cts = recording.pull(
                (slot, next(rest) if p else None) for slot, p in zip(out_slots, present, strict=True)
            )
            pulled = [None if slot is None else inner_cts[slot] for slot in slots]
            mask[:] = [ct is not None for ct in pulled]
            pairs = [(ct, s) for ct, s in zip(pulled, in_ct_specs, strict=True) if ct is not None]
            if not checked:
                pairs = [(psum_over(ct, _jax.unmentioned(mesh, s, manual)), s) for ct, s in pairs]
            return _jax.flat_tree([ct for ct, _ in pairs]).with_aux(tuple(s for _, s in pairs))

        ct_specs = [s for s, p in zip(out_specs, present, strict=True) if p]
        results = node.primitive.bind(
            *node.residuals,
            *(ct for ct in cts if ct is not None),
            **shared,
            in_specs=(*specs, *ct_specs),
            subfuns=(backward,),
        )
        results = iter(results.vals)
        return [next(results) if has else None for has in mask]


def shared_equally(ct: Any, count: int) -> Any:
    return ct / count if count != 1 else ct


def psum_over(ct: Any, axes: tuple[str, ...]) -> Any:
    return lax.psum(ct, axes) if axes else ct


rules = {_jax.shard_map_p: ShardMap()}
