"""Problems of the GradBench suite about bodies and cameras: bundle adjustment, a hand, and two with nested gradients.

Written from the definitions published with the suite (https://github.com/gradbench/gradbench). Bundle adjustment and
the hand are from Srajer, Kukelova and Fitzgibbon (2018, arXiv:1807.10129); the particle and the saddle from Siskind and
Pearlmutter, "Using programming language theory to make automatic differentiation sound and efficient" (2008).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.workloads.workload import Random, Workload, zeros

# Bundle adjustment: cameras, points and the weights of observations


def bundle_loss(params, pairs, features):
    """Half the sum of squared residuals: of weighted reprojections, two per observation, and of 1 - weight^2.

    A camera has a rotation vector (3), a center (3), a focal length, a principal point (2) and two coefficients of
    radial distortion. ``pairs`` has a camera's and a point's number per observation, ``features`` what was observed.
    """
    camera, point = params["cameras"][pairs[:, 0]], params["points"][pairs[:, 1]]
    rotation, center, focal, principal, radial = jnp.split(camera, (3, 6, 7, 9), axis=1)
    angle = jnp.sqrt(jnp.sum(rotation**2, axis=1, keepdims=True))
    axis, ray = rotation / angle, point - center
    along = jnp.sum(axis * ray, axis=1, keepdims=True)
    turned = jnp.cos(angle) * ray + jnp.sin(angle) * jnp.cross(axis, ray) + (1 - jnp.cos(angle)) * along * axis
    flat = turned[:, :2] / turned[:, 2:]
    r2 = jnp.sum(flat**2, axis=1, keepdims=True)
    projected = focal * flat * (1 + radial[:, :1] * r2 + radial[:, 1:] * r2**2) + principal
    reprojection = params["weights"][:, None] * (projected - features)
    return 0.5 * jnp.sum(reprojection**2) + 0.5 * jnp.sum((1 - params["weights"] ** 2) ** 2)


def bundle_torch(torch, params, pairs, features):
    camera, point = params["cameras"][pairs[:, 0]], params["points"][pairs[:, 1]]
    rotation, center, focal, principal, radial = camera.split((3, 3, 1, 2, 2), 1)
    angle = torch.sqrt(torch.sum(rotation**2, 1, keepdim=True))
    axis, ray = rotation / angle, point - center
    along = torch.sum(axis * ray, 1, keepdim=True)
    turned = (
        torch.cos(angle) * ray
        + torch.sin(angle) * torch.linalg.cross(axis, ray)
        + (1 - torch.cos(angle)) * along * axis
    )
    flat = turned[:, :2] / turned[:, 2:]
    r2 = torch.sum(flat**2, 1, keepdim=True)
    projected = focal * flat * (1 + radial[:, :1] * r2 + radial[:, 1:] * r2**2) + principal
    reprojection = params["weights"][:, None] * (projected - features)
    return 0.5 * torch.sum(reprojection**2) + 0.5 * torch.sum((1 - params["weights"] ** 2) ** 2)


def bundle_example(observations: int):
    random = Random()
    cameras, points = 1 + observations // 200, 1 + observations // 4
    camera = jnp.concatenate(
        [
            random.normal(cameras, 3, scale=0.2),
            random.normal(cameras, 3) - jnp.float32([0, 0, 8]),
            1 + random.uniform(0, 0.2, cameras, 1),
            random.normal(cameras, 2, scale=0.1),
            random.normal(cameras, 2, scale=0.05),
        ],
        axis=1,
    )
    pairs = jnp.stack([random.integers(cameras, observations), random.integers(points, observations)], axis=1)
    params = {
        "cameras": camera,
        "points": random.normal(points, 3),
        "weights": 1 + random.normal(observations, scale=0.1),
    }
    return params, pairs, random.normal(observations, 2)


# The hand: a chain of rotations per finger, and a skin over the bones

FINGERS, JOINTS = 5, 4
BONES = 1 + FINGERS * JOINTS
PARENTS = [0] + [0 if bone % JOINTS == 1 else bone - 1 for bone in range(1, BONES)]


def rotations(angles):
    """Matrices (bones, 3, 3) that turn about x, then y, then z by ``angles`` (bones, 3)."""
    (sx, sy, sz), (cx, cy, cz) = jnp.sin(angles).T, jnp.cos(angles).T
    rows = [
        [cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz],
        [cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz],
        [-sy, sx * cy, cx * cy],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def hand_loss(params, offsets, weights, vertices, points):
    """Half the sum of squared distances of skin vertices to the points that they should be at.

    ``params`` has the angles (bones, 3) and the hand's place (3,). A bone lies at ``offsets`` (bones, 3) in its
    parent's frame, a vertex at ``vertices`` (bones, points, 3) in each bone's; ``weights`` (bones, points) blend them.
    """
    turns, turn, place = rotations(params["angles"]), [], []
    for bone, parent in enumerate(PARENTS):
        if bone == 0:
            turn.append(turns[0])
            place.append(params["place"])
        else:
            turn.append(turn[parent] @ turns[bone])
            place.append(turn[parent] @ offsets[bone] + place[parent])
    posed = jnp.einsum("bij,bnj->bni", jnp.stack(turn), vertices) + jnp.stack(place)[:, None]
    return 0.5 * jnp.sum((jnp.einsum("bn,bni->ni", weights, posed) - points) ** 2)


def hand_torch(torch, params, offsets, weights, vertices, points):
    (sx, sy, sz), (cx, cy, cz) = torch.sin(params["angles"]).T, torch.cos(params["angles"]).T
    rows = [
        [cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz],
        [cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz],
        [-sy, sx * cy, cx * cy],
    ]
    turns = torch.stack([torch.stack(row, -1) for row in rows], -2)
    turn, place = [turns[0]], [params["place"]]
    for bone, parent in list(enumerate(PARENTS))[1:]:
        turn.append(turn[parent] @ turns[bone])
        place.append(turn[parent] @ offsets[bone] + place[parent])
    posed = torch.einsum("bij,bnj->bni", torch.stack(turn), vertices) + torch.stack(place)[:, None]
    return 0.5 * torch.sum((torch.einsum("bn,bni->ni", weights, posed) - points) ** 2)


def hand_example(points: int):
    random = Random()
    weights = jax.nn.softmax(random.normal(BONES, points, scale=3.0), axis=0)
    params = {"angles": random.normal(BONES, 3, scale=0.3), "place": zeros(3)}
    return params, random.normal(BONES, 3), weights, random.normal(BONES, points, 3), random.normal(points, 3)


# A saddle of the energy of bodies, and a particle among charges

ASCENTS = 16


def energy(x, y):
    """Of bodies ``x`` that seek the origin and ``y`` that flee it, and pull at each other: (bodies, 2) both."""
    distances = jnp.sqrt(jnp.sum((x[:, None] - y) ** 2, axis=2) + 1)
    return 0.5 * jnp.sum(x**2) - 0.5 * jnp.sum(y**2) - jnp.sum(jnp.log(distances)) / len(x)


def saddle_loss(x, start, grad=jax.grad):
    """The maximum of the energy over ``y``, by steps along its gradient: what ``x`` minimises at the saddle."""

    def ascend(y, _):
        return y + 0.3 * grad(energy, 1)(x, y), None

    y, _ = lax.scan(ascend, start, length=ASCENTS)
    return energy(x, y) / len(x)


def saddle_torch(torch, x, start):
    def energy(y):
        distances = torch.sqrt(torch.sum((x[:, None] - y) ** 2, 2) + 1)
        return 0.5 * torch.sum(x**2) - 0.5 * torch.sum(y**2) - torch.sum(torch.log(distances)) / len(x)

    y = start.clone().requires_grad_()
    for _ in range(ASCENTS):
        y = y + 0.3 * torch.autograd.grad(energy(y), y, create_graph=True)[0]
    return energy(y) / len(x)


def saddle_example(bodies: int):
    random = Random()
    return random.normal(bodies, 2), random.normal(bodies, 2)


def potential(position, w):
    """At ``position``, of charges at (10, 0) and (10, 10 - w)."""
    charges = jnp.stack([jnp.array([10, 0], w.dtype), jnp.stack([10 + 0 * w, 10 - w])])
    return jnp.sum(jnp.sum((position - charges) ** 2, axis=1) ** -0.5)


def fall(w, dt, grad):
    """A step by Euler's rule of the particle's position and velocity."""

    def step(state):
        position, velocity = state
        return position + dt * velocity, velocity - dt * grad(potential)(position, w)

    return step


def above(state, dt):
    """Whether the particle's next place is above the x axis."""
    position, velocity = state
    return position[1] + dt * velocity[1] > 0


def particle_start(w):
    return jnp.array([0, 8], w.dtype), jnp.array([0.75, 0], w.dtype)


def crossing(state):
    """The square of where the line along the velocity crosses the x axis."""
    position, velocity = state
    return (position[0] - position[1] * velocity[0] / velocity[1]) ** 2


def particle_loss(w, dt, ticks, grad=jax.grad):
    """How far from the origin, squared, a particle comes down. The length of ``ticks`` is not made use of."""
    step = fall(w, dt, grad)
    return crossing(lax.while_loop(lambda state: above(state, dt), step, particle_start(w)))


def particle_bounded(w, dt, ticks, grad=jax.grad):
    step = fall(w, dt, grad)

    def turn(state, _):
        return jax.tree.map(lambda new, old: jnp.where(above(state, dt), new, old), step(state), state), None

    return crossing(lax.scan(turn, particle_start(w), ticks)[0])


def particle_torch(torch, w, dt, ticks):
    position, velocity = w.new_tensor([0, 8]), w.new_tensor([0.75, 0])
    position.requires_grad_()
    while True:
        charges = torch.stack([w.new_tensor([10, 0]), torch.stack([10 + 0 * w, 10 - w])])
        potential = torch.sum(torch.sum((position - charges) ** 2, 1) ** -0.5)
        after = position + dt * velocity
        if after[1] <= 0:
            return (position[0] - position[1] * velocity[0] / velocity[1]) ** 2
        force = torch.autograd.grad(potential, position, create_graph=True)[0]
        position, velocity = after, velocity - dt * force


def particle_example(steps_per_time: int):
    return jnp.float32(0), jnp.float32(1 / steps_per_time), zeros(64 * steps_per_time)


bundle = Workload(bundle_loss, bundle_example, "observations", (1_000, 10_000, 100_000), 8, bundle_torch)
hand = Workload(hand_loss, hand_example, "points", (100, 1_000, 10_000), 4, hand_torch)
saddle = Workload(saddle_loss, saddle_example, "bodies", (16, 64, 256), 3, saddle_torch, nested=True)
particle = Workload(particle_loss, particle_example, "steps per time", (8, 64, 512), 2, particle_torch,
                    bounded=particle_bounded, nested=True, most=(("torch", 8),))  # fmt: skip
